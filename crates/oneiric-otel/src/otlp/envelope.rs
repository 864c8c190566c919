//! From an envelope whose parts nobody has looked into to records, each read alone.
//!
//! Both encodings split a request into the parts of an [`UnreadResource`] list and leave the rest to [`read`], so that
//! an error costs the same in both: a bad record itself, a bad resource or scope the records under it.

use std::mem;
use std::sync::Arc;

use super::record::{Names, Record};
use super::{Decoded, Group, Malformed, ResourceEnvelope, ScopeEnvelope, Undecodable, json};

/// A slice of a request that holds one message or one text.
pub(super) trait Unread {
    /// Reads the slice as a message.
    fn message<M: prost::Message + json::Message>(&self) -> Result<M, Fault>;
    /// Reads the slice as a text.
    fn text(&self) -> Result<String, Fault>;
    /// The slice, where it is protobuf.
    fn encoded(&self) -> Option<&[u8]>;
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

/// Takes what is read, in the order of the request.
pub(crate) trait Sink<R> {
    /// The next records have this resource and this scope. There is at least one, and at most so many.
    fn group(&mut self, resource: &Arc<ResourceEnvelope>, scope: &Arc<ScopeEnvelope>, most: usize);
    /// A record of the group. Nothing is read ahead of it.
    fn record(&mut self, record: R);
    /// A record of the group as protobuf, which is taken only if it can be read as it lies there: after `begin`, which
    /// names the group where that is still to be done. Otherwise the record comes read.
    fn encoded(&mut self, record: &[u8], begin: impl FnOnce(&mut Self)) -> bool {
        let (_, _) = (record, begin);
        false
    }
}

/// Keeps everything.
pub(super) struct Everything<R>(Vec<Group<R>>);

impl<R> Sink<R> for Everything<R> {
    fn group(&mut self, resource: &Arc<ResourceEnvelope>, scope: &Arc<ScopeEnvelope>, most: usize) {
        let (resource, scope) = (Arc::clone(resource), Arc::clone(scope));
        self.0.push(Group { resource, scope, records: Vec::with_capacity(most) });
    }

    fn record(&mut self, record: R) {
        if let Some(group) = self.0.last_mut() {
            group.records.push(record);
        }
    }
}

/// What `read` gives to a sink, all at once.
pub(super) fn collect<R>(
    read: impl FnOnce(&mut Everything<R>) -> Result<Vec<Undecodable>, Malformed>,
) -> Result<Decoded<R>, Malformed> {
    let mut everything = Everything(Vec::new());
    let undecodable = read(&mut everything)?;
    Ok(Decoded { groups: everything.0, undecodable })
}

/// Reads every part. A record is afterwards in `sink` or counted as undecodable, never both and never neither.
///
/// # Errors
/// The reason, when there are more than [`MAX_RECORDS`].
pub(super) fn read<R: Record, P: Unread>(
    resources: Vec<UnreadResource<P>>,
    sink: &mut impl Sink<R>,
) -> Result<Vec<Undecodable>, String> {
    let records: usize = resources.iter().flat_map(|resource| &resource.scopes).map(|scope| scope.records.len()).sum();
    if records > MAX_RECORDS {
        return Err(format!("{records} {}; a request may have at most {MAX_RECORDS}", R::NAMES.records));
    }
    let mut undecodable = Vec::new();
    for (index, unread) in resources.into_iter().enumerate() {
        read_resource(index, unread, sink, &mut undecodable);
    }
    Ok(undecodable)
}

fn read_resource<R: Record, P: Unread>(
    index: usize,
    unread: UnreadResource<P>,
    sink: &mut impl Sink<R>,
    undecodable: &mut Vec<Undecodable>,
) {
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
            lose(undecodable, &path, fault, lost);
            return;
        }
    };
    for (index, unread) in unread.scopes.into_iter().enumerate() {
        read_scope(&format!("{path}.{scopes}[{index}]"), &resource, &unread, sink, undecodable);
    }
}

fn read_scope<R: Record, P: Unread, S: Sink<R>>(
    path: &str,
    resource: &Arc<ResourceEnvelope>,
    unread: &UnreadScope<P>,
    sink: &mut S,
    undecodable: &mut Vec<Undecodable>,
) {
    let read = read_part("scope", unread.scope.as_ref(), P::message)
        .and_then(|scope| Ok((scope, read_part("schemaUrl", unread.schema_url.as_ref(), P::text)?)));
    let scope = match read {
        Ok((scope, schema_url)) => Arc::new(ScopeEnvelope { scope, schema_url: schema_url.unwrap_or_default() }),
        Err(fault) => {
            lose(undecodable, path, fault, count_records::<R, P>(unread));
            return;
        }
    };
    let mut is_known = false;
    for (index, record) in unread.records.iter().enumerate() {
        let mut begin = |sink: &mut S| {
            if !mem::replace(&mut is_known, true) {
                sink.group(resource, &scope, unread.records.len() - index);
            }
        };
        if record.encoded().is_some_and(|bytes| sink.encoded(bytes, &mut begin)) {
            continue;
        }
        match record.message::<R>() {
            Ok(record) => {
                begin(sink);
                sink.record(record);
            }
            Err(fault) => {
                let path = format!("{path}.{}[{index}]", R::NAMES.records);
                lose(undecodable, &path, fault, record.count_lost::<R>());
            }
        }
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
fn lose(undecodable: &mut Vec<Undecodable>, path: &str, fault: Fault, records: u64) {
    if records == 0 {
        return;
    }
    match undecodable.get_mut(MAX_REPORTED) {
        None => {
            let path = format!("{path}{}", fault.path);
            undecodable.push(Undecodable { path, records, reason: fault.reason });
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
