//! Values of any type as JSON, without loss.
//!
//! | PostgreSQL | JSON |
//! |---|---|
//! | `bool`, `int2`, `int4`, `oid`, `float4`, `float8` | `true`, number; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | `int8`, `numeric` without a fraction | number up to 2^53 in size, beyond it text: many readers would round it |
//! | `numeric` with a fraction | number with all its digits; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | `timestamptz`, `timestamp`, `date`, `time` | text of RFC 3339, in UTC; `"infinity"`, `"-infinity"` |
//! | `interval` | text of ISO 8601, such as `"P1DT2H"` |
//! | `bytea` | text: `\x` and hex digits |
//! | `json`, `jsonb` | as it is |
//! | arrays | lists |
//! | `void` | null |
//! | anything else | text, as PostgreSQL writes it |

use std::error::Error;
use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp, civil};
use serde_json::value::RawValue;
use tokio_postgres::types::{FromSql, Kind, Type};

type Failure = Box<dyn Error + Sync + Send>;

/// The largest integer up to which all are exact in a double.
const EXACT: u64 = 1 << 53;
/// 2000-01-01, from which PostgreSQL counts, in microseconds since 1970.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const DAY_MICROS: i64 = 86_400_000_000;

/// A value as JSON.
pub(super) struct Cell(pub(super) Box<RawValue>);

impl<'a> FromSql<'a> for Cell {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
        let mut json = String::new();
        write(&mut json, kind, raw)?;
        Ok(Self(RawValue::from_string(json)?))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Failure> {
        Ok(Self(RawValue::from_string("null".to_owned())?))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Whether [`Cell`] reads the type's binary form. What it does not read has to come as text.
pub(super) fn is_readable(kind: &Type) -> bool {
    const READABLE: &[Type] = &[
        Type::BOOL,
        Type::INT2,
        Type::INT4,
        Type::INT8,
        Type::OID,
        Type::FLOAT4,
        Type::FLOAT8,
        Type::NUMERIC,
        Type::TEXT,
        Type::VARCHAR,
        Type::BPCHAR,
        Type::NAME,
        Type::BYTEA,
        Type::UUID,
        Type::JSON,
        Type::JSONB,
        Type::DATE,
        Type::TIME,
        Type::TIMESTAMP,
        Type::TIMESTAMPTZ,
        Type::INTERVAL,
        Type::VOID,
    ];
    match kind.kind() {
        Kind::Array(element) => READABLE.contains(element),
        _ => READABLE.contains(kind),
    }
}

fn write(json: &mut String, kind: &Type, raw: &[u8]) -> Result<(), Failure> {
    if let Kind::Array(element) = kind.kind() {
        return array(json, element, raw);
    }
    match *kind {
        Type::BOOL => json.push_str(if raw == [0] { "false" } else { "true" }),
        Type::INT2 => write!(json, "{}", i16::from_be_bytes(raw.try_into()?))?,
        Type::INT4 => write!(json, "{}", i32::from_be_bytes(raw.try_into()?))?,
        Type::INT8 => integer(json, &i64::from_be_bytes(raw.try_into()?).to_string())?,
        Type::OID => write!(json, "{}", u32::from_be_bytes(raw.try_into()?))?,
        Type::FLOAT4 => float(json, f32::from_be_bytes(raw.try_into()?))?,
        Type::FLOAT8 => float(json, f64::from_be_bytes(raw.try_into()?))?,
        Type::NUMERIC => numeric(json, raw)?,
        Type::BYTEA => write!(json, "\"\\\\x{}\"", hex::encode(raw))?,
        Type::UUID => write!(json, "\"{}\"", uuid::Uuid::from_slice(raw)?)?,
        Type::JSON => json.push_str(std::str::from_utf8(raw)?),
        // Behind a version.
        Type::JSONB => json.push_str(std::str::from_utf8(raw.get(1..).unwrap_or_default())?),
        Type::DATE => date(json, i32::from_be_bytes(raw.try_into()?))?,
        Type::TIME => time(json, i64::from_be_bytes(raw.try_into()?))?,
        Type::TIMESTAMP => timestamp(json, i64::from_be_bytes(raw.try_into()?), false)?,
        Type::TIMESTAMPTZ => timestamp(json, i64::from_be_bytes(raw.try_into()?), true)?,
        Type::INTERVAL => interval(json, raw)?,
        Type::VOID => json.push_str("null"),
        _ => text(json, std::str::from_utf8(raw)?)?,
    }
    Ok(())
}

fn text(json: &mut String, text: &str) -> Result<(), Failure> {
    json.push_str(&serde_json::to_string(text)?);
    Ok(())
}

/// Digits, as a number if every reader keeps them.
fn integer(json: &mut String, digits: &str) -> Result<(), Failure> {
    let is_exact = digits.parse::<i64>().is_ok_and(|number| number.unsigned_abs() <= EXACT);
    if !is_exact {
        return text(json, digits);
    }
    json.push_str(digits);
    Ok(())
}

fn float<F: Into<f64> + Copy + serde::Serialize>(json: &mut String, number: F) -> Result<(), Failure> {
    let wide: f64 = number.into();
    if wide.is_finite() {
        json.push_str(&serde_json::to_string(&number)?);
        return Ok(());
    }
    text(
        json,
        if wide.is_nan() {
            "NaN"
        } else if wide > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        },
    )
}

/// Takes big-endian numbers from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Failure> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("a value ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn i16(&mut self) -> Result<i16, Failure> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn i32(&mut self) -> Result<i32, Failure> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into()?))
    }

    fn i64(&mut self) -> Result<i64, Failure> {
        Ok(i64::from_be_bytes(self.take(8)?.try_into()?))
    }
}

/// Groups of four digits, the place of the first, the sign, and how many digits there are behind the point.
fn numeric(json: &mut String, raw: &[u8]) -> Result<(), Failure> {
    let mut bytes = Bytes(raw);
    let count = i32::from(bytes.i16()?);
    let weight = i32::from(bytes.i16()?);
    let sign = bytes.i16()?.cast_unsigned();
    let scale = usize::try_from(bytes.i16()?)?;
    match sign {
        0xc000 => return text(json, "NaN"),
        0xd000 => return text(json, "Infinity"),
        0xf000 => return text(json, "-Infinity"),
        _ => {}
    }
    let groups: Vec<i16> = (0..count).map(|_| bytes.i16()).collect::<Result<_, _>>()?;
    let group = |place: i32| usize::try_from(weight - place).ok().and_then(|index| groups.get(index)).copied();
    let mut whole = String::new();
    for place in (0..=weight.max(0)).rev() {
        let group = group(place).unwrap_or_default();
        let width = if whole.is_empty() { 1 } else { 4 };
        write!(whole, "{group:0width$}")?;
        if whole == "0" && place > 0 {
            whole.clear();
        }
    }
    let mut digits = if sign == 0x4000 { format!("-{whole}") } else { whole };
    if scale == 0 {
        return integer(json, &digits);
    }
    let mut fraction = String::new();
    let mut place = -1;
    while fraction.len() < scale {
        write!(fraction, "{:04}", group(place).unwrap_or_default())?;
        place -= 1;
    }
    fraction.truncate(scale);
    write!(digits, ".{fraction}")?;
    json.push_str(&digits);
    Ok(())
}

fn date(json: &mut String, days: i32) -> Result<(), Failure> {
    match days {
        i32::MAX => return text(json, "infinity"),
        i32::MIN => return text(json, "-infinity"),
        _ => {}
    }
    let date = civil::date(2000, 1, 1).checked_add(SignedDuration::from_hours(i64::from(days) * 24));
    match date {
        Ok(date) => text(json, &date.to_string()),
        Err(_) => text(json, &format!("2000-01-01 and {days} days")),
    }
}

fn time(json: &mut String, micros: i64) -> Result<(), Failure> {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = if fraction == 0 { String::new() } else { format!(".{fraction:06}") };
    text(json, &format!("{hours:02}:{minutes:02}:{seconds:02}{}", fraction.trim_end_matches('0')))
}

fn timestamp(json: &mut String, micros: i64, with_zone: bool) -> Result<(), Failure> {
    match micros {
        i64::MAX => return text(json, "infinity"),
        i64::MIN => return text(json, "-infinity"),
        _ => {}
    }
    let moment = micros.checked_add(EPOCH_MICROS).map(Timestamp::from_microsecond);
    let Some(Ok(moment)) = moment else {
        // Beyond the years that RFC 3339 can write.
        return text(json, &format!("2000-01-01 and {} days and {} us", micros / DAY_MICROS, micros % DAY_MICROS));
    };
    let shown = moment.to_string();
    text(json, if with_zone { &shown } else { shown.trim_end_matches('Z') })
}

fn interval(json: &mut String, raw: &[u8]) -> Result<(), Failure> {
    let mut bytes = Bytes(raw);
    let micros = bytes.i64()?;
    let days = bytes.i32()?;
    let months = bytes.i32()?;
    let mut shown = "P".to_owned();
    for (number, unit) in [(months / 12, 'Y'), (months % 12, 'M'), (days, 'D')] {
        if number != 0 {
            write!(shown, "{number}{unit}")?;
        }
    }
    if micros != 0 || shown == "P" {
        let (seconds, fraction) = (micros / 1_000_000, (micros % 1_000_000).abs());
        shown.push('T');
        for (number, unit) in [(seconds / 3600, 'H'), (seconds / 60 % 60, 'M')] {
            if number != 0 {
                write!(shown, "{number}{unit}")?;
            }
        }
        let sign = if micros < 0 { "-" } else { "" };
        let seconds = (seconds % 60).abs();
        if fraction != 0 {
            let fraction = format!("{fraction:06}");
            write!(shown, "{sign}{seconds}.{}S", fraction.trim_end_matches('0'))?;
        } else if seconds != 0 || shown == "PT" {
            write!(shown, "{sign}{seconds}S")?;
        }
    }
    text(json, &shown)
}

fn array(json: &mut String, element: &Type, raw: &[u8]) -> Result<(), Failure> {
    let mut bytes = Bytes(raw);
    let dimensions = usize::try_from(bytes.i32()?)?;
    bytes.take(8)?; // Whether there are nulls, and the type of the elements.
    let mut lengths = Vec::new();
    for _ in 0..dimensions {
        lengths.push(usize::try_from(bytes.i32()?)?);
        bytes.take(4)?; // The index of the first.
    }
    if lengths.is_empty() {
        json.push_str("[]");
        return Ok(());
    }
    elements(json, element, &lengths, &mut bytes)
}

fn elements(json: &mut String, element: &Type, lengths: &[usize], bytes: &mut Bytes<'_>) -> Result<(), Failure> {
    let Some((length, inner)) = lengths.split_first() else {
        // A negative length is that of a null.
        if let Ok(length) = usize::try_from(bytes.i32()?) {
            return write(json, element, bytes.take(length)?);
        }
        json.push_str("null");
        return Ok(());
    };
    json.push('[');
    for index in 0..*length {
        if index > 0 {
            json.push(',');
        }
        elements(json, element, inner, bytes)?;
    }
    json.push(']');
    Ok(())
}
