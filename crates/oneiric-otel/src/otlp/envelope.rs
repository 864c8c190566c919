//! From an envelope whose parts nobody has looked into to records, each read alone.
//!
//! Both encodings split a request into the parts of an [`UnreadResource`] list and leave the rest to [`read`], so that
//! an error costs the same in both: a bad record itself, a bad resource or scope the records under it.

use std::sync::Arc;

use super::record::{Names, Record};
use super::{Decoded, Group, ResourceEnvelope, ScopeEnvelope, Undecodable, json};

/// A slice of a request that holds one message or one text.
pub(super) trait Unread {
    /// Reads the slice as a message.
    fn message<M: prost::Message + json::Message>(&self) -> Result<M, Fault>;
    /// Reads the slice as a text.
    fn text(&self) -> Result<String, Fault>;
    /// How many records are lost with this slice, which cannot be read as `R`.
    fn count_lost<R: Record>(&self) -> u64;
}

/// Why a slice cannot be read.
pub(super) struct Fault {
    /// Where below the slice, such as `.attributes[2].key`; empty when it is not known or the slice itself is meant.
    pub(super) path: String,
    /// What is wrong and, where it helps, what is accepted.
    pub(super) reason: String,
}

/// `ResourceSpans` and its like.
pub(super) struct UnreadResource<P> {
    pub(super) resource: Option<P>,
    pub(super) scopes: Vec<UnreadScope<P>>,
    pub(super) schema_url: Option<P>,
}

/// `ScopeSpans` and its like.
pub(super) struct UnreadScope<P> {
    pub(super) scope: Option<P>,
    pub(super) records: Vec<P>,
    pub(super) schema_url: Option<P>,
}

/// The most records in a request. A record takes several hundred bytes when it is read and may be two bytes long on the
/// wire, so a limit on the bytes of a request alone would not bound its memory.
pub(super) const MAX_RECORDS: usize = 500_000;

/// Undecodable records that are reported one by one. The others are counted together.
const MAX_REPORTED: usize = 100;

/// Reads every part. A record is afterwards in a group or counted as undecodable, never both and never neither.
///
/// # Errors
/// The reason, when there are more than [`MAX_RECORDS`].
pub(super) fn read<R: Record, P: Unread>(resources: Vec<UnreadResource<P>>) -> Result<Decoded<R>, String> {
    let records: usize = resources.iter().flat_map(|resource| &resource.scopes).map(|scope| scope.records.len()).sum();
    if records > MAX_RECORDS {
        return Err(format!("{records} {}; a request may have at most {MAX_RECORDS}", R::NAMES.records));
    }
    let mut decoded = Decoded { groups: Vec::new(), undecodable: Vec::new() };
    for (index, unread) in resources.into_iter().enumerate() {
        read_resource(index, unread, &mut decoded);
    }
    Ok(decoded)
}

fn read_resource<R: Record, P: Unread>(index: usize, unread: UnreadResource<P>, decoded: &mut Decoded<R>) {
    let Names { resources, scopes, .. } = R::NAMES;
    let path = format!("{resources}[{index}]");
    let read = read_part("resource", unread.resource.as_ref(), P::message)
        .and_then(|resource| Ok((resource, read_part("schemaUrl", unread.schema_url.as_ref(), P::text)?)));
    let resource = match read {
        Ok((resource, schema_url)) => {
            Arc::new(ResourceEnvelope { resource, schema_url: schema_url.unwrap_or_default() })
        }
        Err(fault) => {
            let lost = unread.scopes.iter().map(count_records::<R, P>).sum();
            lose(decoded, &path, fault, lost);
            return;
        }
    };
    for (index, unread) in unread.scopes.into_iter().enumerate() {
        read_scope(&format!("{path}.{scopes}[{index}]"), &resource, &unread, decoded);
    }
}

fn read_scope<R: Record, P: Unread>(
    path: &str,
    resource: &Arc<ResourceEnvelope>,
    unread: &UnreadScope<P>,
    decoded: &mut Decoded<R>,
) {
    let read = read_part("scope", unread.scope.as_ref(), P::message)
        .and_then(|scope| Ok((scope, read_part("schemaUrl", unread.schema_url.as_ref(), P::text)?)));
    let scope = match read {
        Ok((scope, schema_url)) => Arc::new(ScopeEnvelope { scope, schema_url: schema_url.unwrap_or_default() }),
        Err(fault) => {
            lose(decoded, path, fault, count_records::<R, P>(unread));
            return;
        }
    };
    let mut records = Vec::with_capacity(unread.records.len());
    for (index, unread) in unread.records.iter().enumerate() {
        match unread.message::<R>() {
            Ok(record) => records.push(record),
            Err(fault) => {
                let path = format!("{path}.{}[{index}]", R::NAMES.records);
                lose(decoded, &path, fault, unread.count_lost::<R>());
            }
        }
    }
    if !records.is_empty() {
        decoded.groups.push(Group { resource: Arc::clone(resource), scope, records });
    }
}

fn read_part<P, T>(
    name: &str,
    part: Option<&P>,
    read: impl FnOnce(&P) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    let Some(part) = part else { return Ok(None) };
    match read(part) {
        Ok(value) => Ok(Some(value)),
        Err(fault) => Err(Fault { path: format!(".{name}{}", fault.path), ..fault }),
    }
}

/// An envelope without records loses none: there is nothing to report then.
fn lose<R>(decoded: &mut Decoded<R>, path: &str, fault: Fault, records: u64) {
    if records == 0 {
        return;
    }
    match decoded.undecodable.get_mut(MAX_REPORTED) {
        None => {
            let path = format!("{path}{}", fault.path);
            decoded.undecodable.push(Undecodable { path, records, reason: fault.reason });
        }
        Some(rest) => rest.records += records,
    }
}

fn count_records<R: Record, P: Unread>(unread: &UnreadScope<P>) -> u64 {
    let count = |record: &P| match record.message::<R>() {
        Ok(record) => record.count(),
        Err(_) => record.count_lost::<R>(),
    };
    unread.records.iter().map(count).sum()
}
