//! The one table of settings. Fields, defaults, ranges, flags, help and the reference page all come from here.

use std::path::PathBuf;

use super::application::{ApplicationSettings, OtlpSettings};
use super::origin::{ORIGIN, is_origin};
use super::raw::Raw;
use super::retention::DAYS;
use super::value::{Accepts, DatabaseUrl, Secret, Shown, Value, words};
use crate::retention::{Keep, Step};

/// What is known of a setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name in files: parts with dots between them.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// What it can be.
    pub accepts: Accepts,
    /// The flag of its own that it has on the command line. Every other one can be given with `--set`.
    pub flag: Option<Flag>,
    /// What holds where it is not set.
    pub unset: Option<&'static str>,
    /// Whether it is a secret as a whole, which has no place on a command line.
    pub is_secret: bool,
    /// Whether its value can have a password in it, and so is kept out of errors.
    pub holds_password: bool,
}

impl Setting {
    /// What follows the prefix in the name of its variable.
    pub fn variable(&self) -> String {
        self.name.replace('.', "__").to_ascii_uppercase()
    }
}

/// A flag of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag {
    /// Without the dashes.
    pub long: &'static str,
    /// What the help calls its value.
    pub value: &'static str,
    /// Which commands have it.
    pub of: FlagOf,
}

/// The commands that have a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlagOf {
    /// Every command.
    All,
    /// Those that listen.
    Listeners,
    /// `serve`.
    Server,
}

const fn flag(of: FlagOf, long: &'static str, value: &'static str) -> Flag {
    Flag { long, value, of }
}

/// A group of settings as the loader sees it.
pub(super) trait Group {
    /// Sets one of them, if it is of this group. An error says that the value is not accepted.
    fn read(&mut self, name: &str, raw: &Raw) -> Option<Result<(), ()>>;

    /// Shows one of them, if it is of this group, and says whether it is accepted.
    fn look(&self, name: &str) -> Option<(Shown, bool)>;
}

macro_rules! group {
    (
        $(#[doc = $group_doc:literal])+
        pub struct $Group:ident in $prefix:literal {
            $(
                $(#[doc = $doc:literal])+
                $field:ident: $Type:ty = $default:expr, $accepts:expr
                $(, flag $flag:expr)? $(, unset $unset:literal)?;
            )+
            $(groups { $($(#[doc = $sub_doc:literal])+ $sub:ident: $Sub:ty,)+ })?
        }
    ) => {
        $(#[doc = $group_doc])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $Group {
            $($(#[doc = $doc])+ pub $field: $Type,)+
            $($($(#[doc = $sub_doc])+ pub $sub: $Sub,)+)?
        }

        impl Default for $Group {
            fn default() -> Self {
                Self { $($field: $default,)+ $($($sub: <$Sub>::default(),)+)? }
            }
        }

        impl $Group {
            pub(super) const ROWS: &'static [Setting] = &[$(
                Setting {
                    name: concat!($prefix, stringify!($field)),
                    doc: concat!($($doc),+).trim_ascii_start(),
                    accepts: $accepts,
                    flag: first(&[$(Some($flag),)? None]),
                    unset: first(&[$(Some($unset),)? None]),
                    is_secret: <$Type as Value>::IS_WHOLLY_SECRET,
                    holds_password: <$Type as Value>::IS_SECRET,
                },
            )+];
        }

        impl Group for $Group {
            fn read(&mut self, name: &str, raw: &Raw) -> Option<Result<(), ()>> {
                $(
                    if name == concat!($prefix, stringify!($field)) {
                        let value = <$Type as Value>::read(raw).filter(|value| value.is_within($accepts));
                        return Some(value.map(|value| self.$field = value).ok_or(()));
                    }
                )+
                None
            }

            fn look(&self, name: &str) -> Option<(Shown, bool)> {
                $(
                    if name == concat!($prefix, stringify!($field)) {
                        return Some((self.$field.show(), self.$field.is_within($accepts)));
                    }
                )+
                None
            }
        }
    };
}
pub(super) use group;

pub(super) const fn first<T: Copy>(options: &[Option<T>]) -> Option<T> {
    options[0]
}

const DATABASE_URL: Accepts =
    Accepts::Text { what: "a URL such as postgresql://USER:PASSWORD@HOST:PORT/DATABASE", is_good: DatabaseUrl::is_one };
pub(super) const FILE: Accepts = Accepts::Text { what: "the path of a file", is_good: is_some };
const DIRECTORY: Accepts = Accepts::Text { what: "the path of a directory", is_good: is_some };
const ADDRESS: Accepts = Accepts::Text { what: "HOST:PORT, such as 127.0.0.1:4317", is_good: is_address };
const ORIGINS: Accepts = Accepts::Text { what: ORIGIN, is_good: is_origin };
pub(super) const OTLP_ENDPOINT: Accepts = Accepts::Text {
    what: "a URL such as http://HOST:PORT or https://HOST:PORT, without credentials, which go into a header",
    is_good: is_endpoint,
};
pub(super) const HEADERS: Accepts =
    Accepts::Text { what: "NAME=VALUE, with commas between several", is_good: |list| list.contains('=') };
const TOKENS: Accepts = Accepts::Text { what: "tokens with commas between them, and not nothing", is_good: is_some };

pub(super) fn is_some(text: &str) -> bool {
    !text.trim().is_empty()
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

const MODEL: Accepts = Accepts::Text { what: "the name of a model", is_good: is_some };
const ENDPOINT: Accepts = Accepts::Text {
    what: "a URL such as http://127.0.0.1:8080/v1, without credentials or query",
    is_good: is_endpoint,
};
const API_KEY: Accepts = Accepts::Text { what: "a key in plain ASCII, and not nothing", is_good: is_key };

/// The model that runs in this process.
pub(super) const DEFAULT_MODEL: &str = "all-MiniLM-L6-v2";

fn is_endpoint(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '@' | '?' | '#');
    rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[') && rest.chars().all(is_plain)
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic())
}

pub(super) const fn whole(least: u64, most: u64) -> Accepts {
    Accepts::Integer { least, most }
}

pub(super) const fn number(least: f64, most: f64) -> Accepts {
    Accepts::Number { least, most }
}

words! {
    /// What an acknowledgement promises.
    pub enum Acknowledge {
        /// The request is durable in the spool on disk.
        Spooled = "spooled",
        /// Its records are committed in the database.
        Stored = "stored",
        /// It is in memory; when too many wait, the oldest are dropped and counted.
        Memory = "memory",
    }
}

words! {
    /// What is spoken to an OTLP endpoint.
    pub enum ForwardProtocol {
        /// OTLP over HTTP; JSON stays JSON.
        HttpProtobuf = "http/protobuf",
        /// OTLP over gRPC; JSON becomes protobuf.
        Grpc = "grpc",
    }
}

words! {
    /// Where an application's manager sends telemetry.
    pub enum StorageBackend {
        /// To the endpoint of `otlp.endpoint` alone. No database is needed.
        Otlp = "otlp",
        /// Into PostgreSQL.
        Postgresql = "postgresql",
        /// Both, independent of each other.
        Both = "both",
    }
}

words! {
    /// The arithmetic of the model that runs in this process.
    pub enum EmbeddingPrecision {
        /// Bytes with scales: several times as fast, in half the memory; the same vectors on every machine.
        Int8 = "int8",
        /// 32-bit floats: the vectors of sentence-transformers.
        F32 = "f32",
    }
}

words! {
    /// The index over the vectors of a model.
    pub enum VectorIndex {
        /// Hierarchical navigable small worlds, built when there are enough vectors.
        Hnsw = "hnsw",
        /// Lists of vectors that lie together: built in a fraction of the time and room, finds less.
        Ivfflat = "ivfflat",
        /// None: every vector is compared.
        None = "none",
    }
}

words! {
    /// What a trace without a vector has in its place.
    pub enum EmbeddingFallback {
        /// Nothing: a vector is real or absent.
        None = "none",
        /// While no model can be loaded a hash of its id, which is no embedding.
        Hash = "hash",
    }
}

words! {
    /// How the log is written.
    pub enum LogFormat {
        /// Lines for people.
        Text = "text",
        /// An object a line.
        Json = "json",
    }
}

group! {
    /// Every setting, with the value that it has.
    ///
    /// Fields can be set one by one, as in `Settings { store_logs: false, ..Settings::default() }`;
    /// [`check`](Settings::check) then says whether all are in their ranges and go together.
    pub struct Settings in "" {
        /// A PostgreSQL to use in place of the embedded one: postgresql://USER:PASSWORD@HOST/DATABASE
        connection_string: Option<DatabaseUrl> = None, DATABASE_URL, flag flag(FlagOf::All, "database-url", "URL"),
            unset "an embedded PostgreSQL in the data directory";
        /// Where the embedded database, spools and caches lie
        data_dir: Option<PathBuf> = None, DIRECTORY, flag flag(FlagOf::All, "data-dir", "DIR"),
            unset "the user's data directory; for root /var/lib/oneiric-otel";
        /// Another way to the same database, for migrations and maintenance: as the schema's owner, or past PgBouncer
        maintenance_url: Option<DatabaseUrl> = None, DATABASE_URL, flag flag(FlagOf::All, "maintenance-url", "URL"),
            unset "the database";
        /// Where questions are asked: a replica, or another way to the same database; its role must be able to read the
        /// tables
        reader_url: Option<DatabaseUrl> = None, DATABASE_URL, flag flag(FlagOf::All, "reader-url", "URL"),
            unset "the database";
        /// Where `sql` asks, as a role that can read the views and nothing else
        sql_reader_url: Option<DatabaseUrl> = None, DATABASE_URL, flag flag(FlagOf::All, "sql-reader-url", "URL"),
            unset "the database, if its role is one";
        /// Where an application sends its telemetry: into the database, to otlp.endpoint, or both. A server stores, and passes on
        /// with forward_otlp
        storage_backend: StorageBackend = StorageBackend::Postgresql, Accepts::Word(StorageBackend::WORDS);
        /// Whether spans are stored. If not, requests with them are answered as rejected, record by record, with this reason
        store_traces: bool = true, Accepts::Switch;
        /// Whether metrics are stored
        store_metrics: bool = true, Accepts::Switch;
        /// Whether log records are stored
        store_logs: bool = true, Accepts::Switch;
        /// What an acknowledgement promises: durable on this machine's disk, committed in the database, or in memory only
        ack: Acknowledge = Acknowledge::Spooled, Accepts::Word(Acknowledge::WORDS),
            flag flag(FlagOf::Server, "ack", "ACK");
        /// Bytes on disk for requests that wait for the database; beyond it senders are told to come later
        spool_max_bytes: u64 = 1 << 30, whole(256 << 20, u64::MAX),
            flag flag(FlagOf::Server, "spool-max-bytes", "BYTES");
        /// Requests that wait in memory with `ack = memory`; the oldest are dropped and counted
        memory_requests: usize = 1000, whole(1, 1_000_000);
        /// Free bytes on the disk of the embedded database below which senders are told to come later
        min_free_bytes: u64 = 1 << 30, whole(0, u64::MAX), flag flag(FlagOf::Server, "min-free-bytes", "BYTES");
        /// Rows that a transaction gathers before it is written; a larger request is written whole
        batch_size: usize = 5000, whole(10, 100_000);
        /// How long a request that is acknowledged waits for others to fill a transaction
        batch_interval_seconds: f64 = 0.2, number(0.01, 60.0);
        /// Retries of a transaction after its first try, for errors that time may mend
        max_retries: u32 = 3, whole(0, 10);
        /// The pause before the first retry; it doubles, up to one second
        retry_backoff_ms: u64 = 100, whole(0, 5000);
        /// Batches that fail within a minute before the database is left alone
        circuit_breaker_threshold: usize = 5, whole(1, 100);
        /// How long the database is left alone before it is tried again
        circuit_breaker_timeout_seconds: u64 = 60, whole(10, 600);
        /// Days in which a request that is sent again is recognised and adds nothing
        ledger_days: u32 = 7, whole(1, 365);
        /// Days for which telemetry is kept, from the later of its time and its arrival on, or forever
        retention_days: Option<Keep> = None, DAYS, unset "what the database has: 90 in a new one";
        /// The same for spans and for the traces that are derived from them
        retention_days_traces: Option<Keep> = None, DAYS, unset "retention_days";
        /// The same for data points and their roll-ups
        retention_days_metrics: Option<Keep> = None, DAYS, unset "retention_days";
        /// The same for log records
        retention_days_logs: Option<Keep> = None, DAYS, unset "retention_days";
        /// The time of a partition, of those that are made from now on; one table has no more than 400 inside its retention
        partition: Option<Step> = None, Accepts::Word(Step::WORDS), unset "what the database has: `day` in a new one";
        /// The least cosine similarity of traces that count as similar, where a question does not say
        similarity_threshold: f64 = 0.85, number(0.0, 1.0);
        /// The least cosine similarity of a text to a question in words that counts as near
        search_floor: f64 = crate::query::SEARCH_FLOOR, number(0.0, 1.0);
        /// Vectors of questions in words that are kept in memory, those used last
        cache_size: usize = 1000, whole(100, 10_000);
        /// How long a statement of a question may take, except those of `sql`, which have 30 s whatever this says
        query_timeout_seconds: u64 = 30, whole(1, 3600);
        /// The model of the vectors: all-MiniLM-L6-v2 in this process, or any that embedding_endpoint.url serves
        embedding_model: String = DEFAULT_MODEL.to_owned(), MODEL;
        /// The arithmetic of the model in this process: int8 is several times as fast as f32 and a little less exact. Vectors of
        /// one are not compared with those of the other: after a change everything is embedded again, the newest first, and what
        /// was there answers until that is done
        embedding_precision: EmbeddingPrecision = EmbeddingPrecision::Int8, Accepts::Word(EmbeddingPrecision::WORDS);
        /// Components of its vectors, if they are to be checked
        embedding_dimension: Option<usize> = None, whole(1, 16_000), unset "what the model has";
        /// The index over vectors, built from 10,000 of them on; one that was built before stays. ivfflat takes a role that owns the
        /// table, such as that of maintenance_url
        vector_index: VectorIndex = VectorIndex::Hnsw, Accepts::Word(VectorIndex::WORDS);
        /// What the view traces shows for a trace without a vector while no embedding model can be loaded: nothing, or in the
        /// column embedding_fallback a hash of its id, for programs that must have 384 numbers. It is no embedding: nothing is
        /// searched or compared by it, and health says so
        embedding_fallback: EmbeddingFallback = EmbeddingFallback::None, Accepts::Word(EmbeddingFallback::WORDS);
        /// Store spans of the server's own work too, as the service oneiric-otel
        trace_self: bool = false, Accepts::Switch, flag flag(FlagOf::Server, "trace-self", "");
        /// Pass what is acknowledged on to this OTLP endpoint, too, at least once: http://HOST:PORT or https://HOST:PORT
        forward_otlp: Option<String> = None, OTLP_ENDPOINT, flag flag(FlagOf::Server, "forward-otlp", "URL"),
            unset "nothing is passed on";
        /// What is spoken there; JSON stays JSON over HTTP and becomes protobuf over gRPC
        forward_protocol: ForwardProtocol = ForwardProtocol::HttpProtobuf, Accepts::Word(ForwardProtocol::WORDS),
            flag flag(FlagOf::Server, "forward-protocol", "PROTOCOL");
        /// Headers for it, with values percent-encoded, as in OTEL_EXPORTER_OTLP_HEADERS
        forward_headers: Option<Secret> = None, HEADERS, unset "no headers";
        /// The authorities to trust there, in PEM
        forward_ca: Option<PathBuf> = None, FILE, flag flag(FlagOf::Server, "forward-ca", "FILE"),
            unset "those of this machine";
        /// Bytes on disk for requests that wait to be passed on; beyond it they are stored, but not passed on
        forward_max_bytes: u64 = 1 << 30, whole(128 << 20, u64::MAX),
            flag flag(FlagOf::Server, "forward-max-bytes", "BYTES");
        /// How the log on stderr is written
        log_format: LogFormat = LogFormat::Text, Accepts::Word(LogFormat::WORDS);
        /// Let pages of this origin (https://HOST:PORT, or * for all) ask the query API in a browser; may be repeated
        cors_origins: Vec<String> = Vec::new(), ORIGINS, flag flag(FlagOf::Listeners, "cors-origin", "ORIGIN");
        /// Speak TLS on every address, with this certificate and those that lead to its authority, in PEM
        tls_cert: Option<PathBuf> = None, FILE, flag flag(FlagOf::Server, "tls-cert", "FILE"), unset "no TLS";
        /// The private key of the certificate, in PEM; others must not be able to read it
        tls_key: Option<PathBuf> = None, FILE, flag flag(FlagOf::Server, "tls-key", "FILE"), unset "no TLS";
        /// Let only clients in that show a certificate signed by one of these authorities, in PEM
        tls_client_ca: Option<PathBuf> = None, FILE, flag flag(FlagOf::Server, "tls-client-ca", "FILE"),
            unset "clients need no certificate";
        /// Let only requests in that show a bearer token of this file, one per line; others must not be able to read it
        token_file: Option<PathBuf> = None, FILE, flag flag(FlagOf::Server, "token-file", "FILE"),
            unset "no token is needed";
        /// Bearer tokens instead of a file of them, with commas between them
        tokens: Option<Secret> = None, TOKENS, unset "no token is needed";
        groups {
            /// Where the server listens.
            listen: ListenSettings,
            /// How much of what is accepted.
            limits: LimitSettings,
            /// Where another model is served.
            embedding_endpoint: EndpointSettings,
            /// Where an application sends telemetry over OTLP.
            otlp: OtlpSettings,
            /// What an application has that stores its own telemetry.
            application: ApplicationSettings,
        }
    }
}

group! {
    /// Where the server listens. Port 0 picks a free one.
    pub struct ListenSettings in "listen." {
        /// Address for OTLP/gRPC
        grpc_addr: String = "127.0.0.1:4317".to_owned(), ADDRESS,
            flag flag(FlagOf::Listeners, "grpc-addr", "HOST:PORT");
        /// Address for OTLP/HTTP
        http_addr: String = "127.0.0.1:4318".to_owned(), ADDRESS,
            flag flag(FlagOf::Listeners, "http-addr", "HOST:PORT");
        /// Address for the query API below /api/v1/, /healthz, /readyz and /metrics
        api_addr: String = "127.0.0.1:16686".to_owned(), ADDRESS,
            flag flag(FlagOf::Listeners, "api-addr", "HOST:PORT");
    }
}

group! {
    /// How much of what is accepted. What is beyond a limit is refused with the reason, never cut.
    pub struct LimitSettings in "limits." {
        /// The largest request in bytes, as sent and decompressed
        max_request_bytes: usize = 64 << 20, whole(1, u64::MAX),
            flag flag(FlagOf::Server, "max-request-bytes", "BYTES");
        /// Bytes of all requests being received and stored at a time; at least three times limits.max_request_bytes
        max_in_flight_bytes: usize = 256 << 20, whole(64 << 10, u64::MAX),
            flag flag(FlagOf::Server, "max-in-flight-bytes", "BYTES");
        /// Open connections for OTLP; beyond them the one idle longest is closed
        max_connections: usize = 2048, whole(1, u64::MAX), flag flag(FlagOf::Server, "max-connections", "N");
        /// The largest span, log record or data point in bytes
        max_record_bytes: usize = 16 << 20, whole(1024, 1 << 30);
        /// Attributes of a record, or of an event, link or exemplar in it
        max_attributes: usize = 10_000, whole(1, 1_000_000);
        /// Metric series in the database, of all servers on it together. Data points of a new one beyond it are kept as dead
        /// letters until there is room; those of series that are there are stored
        max_metric_series: u64 = crate::store::MAX_METRIC_SERIES, whole(1, u64::MAX);
    }
}

group! {
    /// An OpenAI-compatible endpoint that serves a model.
    pub struct EndpointSettings in "embedding_endpoint." {
        /// Where the model is served, with or without /v1/embeddings at the end
        url: Option<String> = None, ENDPOINT, unset "the model runs in this process";
        /// What is shown there as a bearer token
        api_key: Option<Secret> = None, API_KEY, unset "none is shown";
        /// How long a request may take
        timeout_seconds: u64 = 30, whole(1, 600);
        /// Tries of a request after the first, where it broke off or the endpoint is busy or failing
        max_retries: u32 = 3, whole(0, 10);
        /// Texts of a request
        batch_texts: usize = 64, whole(1, 2048);
    }
}

impl Settings {
    /// Everything that is known of each setting, in the order of the reference page.
    pub fn table() -> impl Iterator<Item = &'static Setting> {
        let served = Self::ROWS.iter().chain(ListenSettings::ROWS).chain(LimitSettings::ROWS);
        served.chain(EndpointSettings::ROWS).chain(OtlpSettings::ROWS).chain(ApplicationSettings::ROWS)
    }

    /// The value of a setting as it may be shown. None if there is no such setting.
    pub fn show(&self, name: &str) -> Option<Shown> {
        self.groups().iter().find_map(|group| group.look(name)).map(|(shown, _)| shown)
    }

    pub(super) fn groups(&self) -> [&dyn Group; 6] {
        [self, &self.listen, &self.limits, &self.embedding_endpoint, &self.otlp, &self.application]
    }

    /// Sets a setting. None if there is no such setting; an error says that the value is not accepted.
    pub(super) fn put(&mut self, name: &str, raw: &Raw) -> Option<Result<(), ()>> {
        let groups: [&mut dyn Group; 5] =
            [&mut self.listen, &mut self.limits, &mut self.embedding_endpoint, &mut self.otlp, &mut self.application];
        let of_group = groups.into_iter().find_map(|group| group.read(name, raw));
        of_group.or_else(|| self.read(name, raw))
    }
}
