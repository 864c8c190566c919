//! Writes the first inputs of every target: `seed DATA CORPUS`.
//!
//! DATA is a folder of telemetry, which is looked through for OTLP in JSON and protobuf; CORPUS gets a folder for each
//! target. A request is taken apart into its records: short inputs are what a fuzzer is good with.

use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use oneiric_otel::otlp::record::Record;
use oneiric_otel::otlp::{Encoding, Group, Signal, decode, file, json, protobuf};
use oneiric_otel::store::fuzzing;
use oneiric_otel_spool::fuzzing::segment;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use prost::Message;
// What is instrumented calls it.
use libfuzzer_sys as _;

/// The longest input.
const MAX_BYTES: usize = 4096;
/// Inputs for a target.
const MAX_INPUTS: usize = 3000;

const URLS: &[&str] = &[
    "postgresql://user@/postgres?host=/tmp/pg&port=5499",
    "postgresql://u:p%40ss%25@h:5/d?a=b",
    "postgres://h/d?password=s&host=%2Ftmp",
    "postgres://a,b:5433,[::1]:1/d?target_session_attrs=read-write&connect_timeout=10&sslmode=require",
    "postgresql:///d?user=u&password=p&application_name=x&options=-c%20a%3Db&hostaddr=127.0.0.1&load_balance_hosts=random",
    "postgresql://u:p@%2Ftmp/d?keepalives=1&keepalives_idle=2&channel_binding=require&tcp_user_timeout=1",
];
const MOMENTS: &[&str] = &[
    "90s",
    "2h",
    "7d",
    "1h30m",
    "P1DT2H",
    "2026-03-01",
    "2026-03-01T12:30",
    "2026-03-01 12:30:59.123456789",
    "2026-03-01T12:30:00Z",
    "2026-03-01T12:30:00+05:00",
    "2026-03-01T12:30:00+01:00[Europe/Berlin]",
    "1 year 2 months",
    "-009999-01-02T01:59:59Z",
    "1s ago",
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [data, corpus] = arguments.as_slice() else { return Err("usage: seed DATA CORPUS".into()) };
    let mut seeds = Seeds { corpus: corpus.into(), written: HashMap::new() };
    let mut files = Vec::new();
    find(Path::new(data), &mut files)?;
    files.sort();
    for path in files {
        let name = path.to_string_lossy();
        for request in file::read(&name, File::open(&path)?, None).flatten() {
            match request.signal {
                Signal::Traces => seeds.request::<Span>("traces", request.encoding, &request.body)?,
                Signal::Metrics => seeds.request::<Metric>("metrics", request.encoding, &request.body)?,
                Signal::Logs => seeds.request::<LogRecord>("logs", request.encoding, &request.body)?,
            }
        }
    }
    for url in URLS {
        seeds.write("connection_url", url.as_bytes())?;
    }
    for moment in MOMENTS {
        seeds.write("moment", moment.as_bytes())?;
    }
    let mut targets: Vec<_> = seeds.written.iter().collect();
    targets.sort();
    for (target, inputs) in targets {
        println!("{inputs:6} {target}");
    }
    Ok(())
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|kind| kind == "json" || kind == "protobuf") {
            files.push(path);
        }
    }
    Ok(())
}

struct Seeds {
    corpus: PathBuf,
    written: HashMap<String, usize>,
}

impl Seeds {
    /// Writes an input that is neither too long nor one too many. Equal ones have one name.
    fn write(&mut self, target: &str, input: &[u8]) -> std::io::Result<()> {
        let written = self.written.entry(target.to_owned()).or_default();
        if input.len() > MAX_BYTES || *written >= MAX_INPUTS {
            return Ok(());
        }
        let folder = self.corpus.join(target);
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("seed-{:016x}", fnv(input)));
        if !path.exists() {
            fs::write(path, input)?;
            *written += 1;
        }
        Ok(())
    }

    fn request<R: Record + Parts>(&mut self, signal: &str, encoding: Encoding, body: &Bytes) -> std::io::Result<()> {
        let Ok(decoded) = decode::<R>(encoding, body) else { return Ok(()) };
        if encoding == Encoding::Json {
            self.write(&format!("json_{signal}"), body)?;
            self.write("otlp_file", &[&[0, 7, 0], &body[..]].concat())?;
        }
        for group in decoded.groups {
            let records = group.records.clone();
            for record in records {
                record.attributes().into_iter().try_for_each(|attributes| self.attributes(attributes))?;
                record.texts().into_iter().try_for_each(|text| self.write("tokens", text.as_bytes()))?;
                let which = match R::SIGNAL {
                    Signal::Traces => 0,
                    Signal::Logs => 1,
                    Signal::Metrics => 2,
                };
                self.write("rows", &[&[which], &record.to_protobuf()[..]].concat())?;
                let group = Group { records: vec![record], ..group.clone() };
                self.single(signal, &[group])?;
            }
        }
        Ok(())
    }

    fn single<R: Record>(&mut self, signal: &str, group: &[Group<R>]) -> std::io::Result<()> {
        let (binary, text) = (protobuf::encode(group), json::encode(group));
        self.write(&format!("protobuf_{signal}"), &binary)?;
        self.write(&format!("json_{signal}"), &text)?;
        if R::SIGNAL == Signal::Traces {
            self.write("in_place", &[&[0, 0], &binary[..]].concat())?;
        }
        let hint = match R::SIGNAL {
            Signal::Traces => 5,
            Signal::Metrics => 6,
            Signal::Logs => 7,
        };
        let fixed = [&(binary.len() as u32).to_be_bytes(), &binary[..]].concat();
        let varint =
            group.iter().flat_map(|_| [prost_length(binary.len()), binary.clone()].concat()).collect::<Vec<_>>();
        let lines = [&text[..], b"\n", &text].concat();
        let array = [b"[", &text[..], b",", &text, b"]"].concat();
        for file in [&binary, &fixed, &varint, &text, &lines, &array] {
            self.write("otlp_file", &[&[hint, 255, 0], &file[..]].concat())?;
        }
        let codings =
            [(0, binary.clone()), (1, gzip(&binary)?), (2, deflate(&binary)?), (3, zstd::bulk::compress(&binary, 1)?)];
        for (coding, body) in codings {
            let name = ["", "inflate_gzip", "inflate_deflate", "inflate_zstd"][usize::from(coding)];
            if coding > 0 {
                self.write(name, &[&[5], &body[..]].concat())?;
                self.write(name, &[&[245], &binary[..]].concat())?;
            }
            self.write("segment_damaged", &[&[9, 1, 80, 0, 255], &body[..]].concat())?;
            let middle = body.len() / 2;
            self.write("segment_raw", &segment(7, &[&body[..middle], b"", &body[middle..]]))?;
            self.write("http_body", &[&[coding, 20], &body[..]].concat())?;
            let flag = u8::from(coding > 0);
            let frame = [&[coding, 20, flag], &(body.len() as u32).to_be_bytes()[..], &body].concat();
            self.write("grpc_body", &frame)?;
        }
        Ok(())
    }

    fn attributes(&mut self, attributes: &[KeyValue]) -> std::io::Result<()> {
        if attributes.is_empty() {
            return Ok(());
        }
        let event = Event { attributes: attributes.to_vec(), ..Event::default() };
        self.write("attributes", &event.encode_to_vec())?;
        let (json, hints) = fuzzing::write(attributes, attributes[0].value.as_ref());
        self.write("hints", &[&(hints.len() as u16).to_le_bytes(), &hints[..], &json].concat())
    }
}

fn prost_length(length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encode_length_delimiter(length, &mut out).expect("a vector grows");
    out
}

fn gzip(data: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data)?;
    encoder.finish()
}

fn deflate(data: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data)?;
    encoder.finish()
}

/// FNV-1a: names for files, the same on every machine.
fn fnv(input: &[u8]) -> u64 {
    input.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What of a record is an input of its own.
trait Parts {
    fn attributes(&self) -> Vec<&[KeyValue]>;
    fn texts(&self) -> Vec<&str>;
}

impl Parts for Span {
    fn attributes(&self) -> Vec<&[KeyValue]> {
        [self.attributes.as_slice()]
            .into_iter()
            .chain(self.events.iter().map(|event| event.attributes.as_slice()))
            .collect()
    }

    fn texts(&self) -> Vec<&str> {
        [self.name.as_str()]
            .into_iter()
            .chain(self.attributes.iter().filter_map(|entry| text(entry.value.as_ref())))
            .collect()
    }
}

impl Parts for LogRecord {
    fn attributes(&self) -> Vec<&[KeyValue]> {
        vec![&self.attributes]
    }

    fn texts(&self) -> Vec<&str> {
        text(self.body.as_ref()).into_iter().collect()
    }
}

impl Parts for Metric {
    fn attributes(&self) -> Vec<&[KeyValue]> {
        vec![&self.metadata]
    }

    fn texts(&self) -> Vec<&str> {
        vec![&self.description]
    }
}

fn text(value: Option<&AnyValue>) -> Option<&str> {
    match value?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}
