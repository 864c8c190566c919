//! Rows in PostgreSQL's binary COPY format, written straight from records.

use std::ops::Range;

/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL's clock begins.
pub(super) const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// OID of `bigint`, as an array header states it.
const INT8_OID: i32 = 20;
/// OID of `double precision`.
const FLOAT8_OID: i32 = 701;

/// What a COPY stream begins with: signature, flags, no header extension.
pub(crate) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with.
pub(crate) const TRAILER: &[u8] = &[0xff, 0xff];

/// A moment as PostgreSQL has it: microseconds since 2000-01-01, floored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Micros(pub(crate) i64);

impl Micros {
    /// Splits nanoseconds since 1970 into the floored microsecond and the 0-999 nanoseconds above it.
    pub(crate) fn from_unix_nanos(nanos: u64) -> (Self, i16) {
        let micros = (nanos / 1000) as i64 - POSTGRES_EPOCH_MICROS;
        (Self(micros), (nanos % 1000) as i16)
    }

    /// A number that is greater for a later time.
    pub(crate) fn ordered(self) -> u64 {
        self.0 as u64 ^ (1 << 63)
    }

    /// The inverse of [`Self::from_unix_nanos`].
    pub(crate) fn to_unix_nanos(self, remainder: i16) -> u64 {
        ((self.0 + POSTGRES_EPOCH_MICROS) as u64).wrapping_mul(1000).wrapping_add(remainder as u64)
    }
}

impl<'a> tokio_postgres::types::FromSql<'a> for Micros {
    fn from_sql(
        _: &tokio_postgres::types::Type,
        raw: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?)))
    }

    tokio_postgres::types::accepts!(TIMESTAMPTZ);
}

impl tokio_postgres::types::ToSql for Micros {
    fn to_sql(
        &self,
        _: &tokio_postgres::types::Type,
        out: &mut bytes::BytesMut,
    ) -> Result<tokio_postgres::types::IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(tokio_postgres::types::IsNull::No)
    }

    tokio_postgres::types::accepts!(TIMESTAMPTZ);
    tokio_postgres::types::to_sql_checked!();
}

/// Orders the rows of a table, time first, and tells two rows with one primary key. Rows of a table without a key have
/// equal ones.
pub(crate) type RowKey = [u64; 4];

/// Where in a row the id of its resource or series stands, and the id of its scope: after the number of columns, the time,
/// and the lengths before each value. See [`RowWriter::owner`].
const OWNER_AT: usize = 2 + (4 + 8) + 4;
const SCOPE_AT: usize = OWNER_AT + 8 + 4;

/// Encoded rows of one table.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    buffer: Vec<u8>,
    starts: Vec<RowStart>,
}

#[derive(Debug, Clone, Copy)]
struct RowStart {
    at: usize,
    key: RowKey,
    owner: u32,
}

/// Whose record a row holds: the ids that the database gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnerIds {
    /// Of a span or log record.
    Scoped {
        /// `resource_id`
        resource: i64,
        /// `scope_id`
        scope: i32,
    },
    /// Of a data point: `series_id`.
    Series(i64),
}

impl OwnerIds {
    /// Fills the ids in where [`RowWriter`] left room for them.
    pub(crate) fn fill_in(self, row: &mut [u8]) {
        let mut put = |at: usize, id: &[u8]| row[at..at + id.len()].copy_from_slice(id);
        match self {
            Self::Scoped { resource, scope } => {
                put(OWNER_AT, &resource.to_be_bytes());
                put(SCOPE_AT, &scope.to_be_bytes());
            }
            Self::Series(series) => put(OWNER_AT, &series.to_be_bytes()),
        }
    }
}

impl Rows {
    /// How many rows.
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// The bytes of some rows.
    pub(crate) fn bytes(&self, rows: Range<usize>) -> &[u8] {
        let start_of = |row| self.starts.get(row).map_or(self.buffer.len(), |start: &RowStart| start.at);
        &self.buffer[start_of(rows.start)..start_of(rows.end)]
    }

    /// The key of a row.
    pub(crate) fn key(&self, row: usize) -> RowKey {
        self.starts[row].key
    }

    /// Which of its batch's owners a row has.
    pub(crate) fn owner(&self, row: usize) -> u32 {
        self.starts[row].owner
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        self.buffer.capacity() + self.starts.capacity() * size_of::<RowStart>()
    }

    /// Begins a row of `columns` columns; each must then be written once, in the order of the COPY's column list.
    /// `owner` is what [`Self::owner`] answers.
    pub(crate) fn begin(&mut self, key: RowKey, owner: u32, columns: i16) -> RowWriter<'_> {
        let at = self.buffer.len();
        self.starts.push(RowStart { at, key, owner });
        self.buffer.extend_from_slice(&columns.to_be_bytes());
        RowWriter { buffer: &mut self.buffer, at, left: columns }
    }

    /// Gives back the room that growing took ahead.
    pub(crate) fn shrink(&mut self) {
        self.buffer.shrink_to_fit();
        self.starts.shrink_to_fit();
    }
}

/// Writes the columns of one row.
pub(crate) struct RowWriter<'a> {
    buffer: &'a mut Vec<u8>,
    at: usize,
    left: i16,
}

impl RowWriter<'_> {
    /// Room for the id of the resource or series. The second column, after the time: rows are encoded before their
    /// owners' ids are known, and [`OwnerIds::fill_in`] must find the place.
    pub(crate) fn owner(&mut self) {
        self.int8(0);
        debug_assert_eq!(self.buffer.len() - self.at, OWNER_AT + 8, "the owner comes after the time");
    }

    /// Room for the id of the scope: the third column.
    pub(crate) fn scope(&mut self) {
        self.int4(0);
        debug_assert_eq!(self.buffer.len() - self.at, SCOPE_AT + 4, "the scope comes after the resource");
    }

    fn field(&mut self, value: &[u8]) {
        self.left -= 1;
        self.buffer.extend_from_slice(&(value.len() as i32).to_be_bytes());
        self.buffer.extend_from_slice(value);
    }

    /// NULL for `None`, the column otherwise.
    fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            Some(value) => write(self, value),
            None => self.null(),
        }
    }

    pub(crate) fn null(&mut self) {
        self.left -= 1;
        self.buffer.extend_from_slice(&(-1i32).to_be_bytes());
    }

    pub(crate) fn boolean(&mut self, value: bool) {
        self.field(&[u8::from(value)]);
    }

    pub(crate) fn int2(&mut self, value: i16) {
        self.field(&value.to_be_bytes());
    }

    pub(crate) fn int2_or_null(&mut self, value: Option<i16>) {
        self.optional(value, Self::int2);
    }

    pub(crate) fn int4(&mut self, value: i32) {
        self.field(&value.to_be_bytes());
    }

    pub(crate) fn int4_or_null(&mut self, value: Option<i32>) {
        self.optional(value, Self::int4);
    }

    pub(crate) fn int8(&mut self, value: i64) {
        self.field(&value.to_be_bytes());
    }

    pub(crate) fn int8_or_null(&mut self, value: Option<i64>) {
        self.optional(value, Self::int8);
    }

    pub(crate) fn float8(&mut self, value: f64) {
        self.field(&value.to_bits().to_be_bytes());
    }

    pub(crate) fn float8_or_null(&mut self, value: Option<f64>) {
        self.optional(value, Self::float8);
    }

    pub(crate) fn timestamp(&mut self, value: Micros) {
        self.int8(value.0);
    }

    pub(crate) fn uuid(&mut self, value: [u8; 16]) {
        self.field(&value);
    }

    pub(crate) fn uuid_or_null(&mut self, value: Option<[u8; 16]>) {
        self.optional(value, Self::uuid);
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.field(value);
    }

    /// NULL for no bytes.
    pub(crate) fn bytes_or_null(&mut self, value: &[u8]) {
        if value.is_empty() { self.null() } else { self.field(value) }
    }

    /// A text. It must not contain NUL: see [`super::residue::Residue::text`].
    pub(crate) fn text(&mut self, value: &str) {
        self.field(value.as_bytes());
    }

    pub(crate) fn text_or_null(&mut self, value: Option<&str>) {
        self.optional(value, Self::text);
    }

    pub(crate) fn jsonb(&mut self, json: &[u8]) {
        self.left -= 1;
        self.buffer.extend_from_slice(&(json.len() as i32 + 1).to_be_bytes());
        self.buffer.push(1); // version of the jsonb wire format
        self.buffer.extend_from_slice(json);
    }

    /// NULL where there is nothing.
    pub(crate) fn jsonb_or_null(&mut self, present: bool, json: &[u8]) {
        self.optional(present.then_some(json), Self::jsonb);
    }

    /// NULL for an empty array.
    pub(crate) fn int8_array(&mut self, values: impl ExactSizeIterator<Item = i64>) {
        self.array(INT8_OID, values.map(i64::to_be_bytes));
    }

    /// NULL for an empty array.
    pub(crate) fn float8_array(&mut self, values: impl ExactSizeIterator<Item = f64>) {
        self.array(FLOAT8_OID, values.map(|value| value.to_bits().to_be_bytes()));
    }

    fn array(&mut self, element_type: i32, values: impl ExactSizeIterator<Item = [u8; 8]>) {
        let count = values.len() as i32;
        if count == 0 {
            return self.null();
        }
        self.left -= 1;
        self.buffer.extend_from_slice(&(20 + count * 12).to_be_bytes());
        for word in [1, 0, element_type, count, 1] {
            self.buffer.extend_from_slice(&i32::to_be_bytes(word)); // dimensions, has nulls, type, length, lower bound
        }
        for value in values {
            self.buffer.extend_from_slice(&8i32.to_be_bytes());
            self.buffer.extend_from_slice(&value);
        }
    }

    /// Ends the row.
    pub(crate) fn end(self) {
        debug_assert_eq!(self.left, 0, "a row has as many columns as it was begun with");
    }
}
