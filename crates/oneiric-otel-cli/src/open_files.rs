//! How many files a server may have open: every connection is one.
//!
//! Many systems start a program with 1,024, and let it ask for more. Without them a crowd of clients would not only be
//! turned away: the spool could not begin a segment and the database not be reached.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files beside the connections of clients: segments of the spool, connections to the database, logs, the model.
const OTHER_FILES: u64 = 256;

/// Asks for as many files as `connections` need. Returns how many connections there is room for, with a warning if they
/// are fewer.
pub(crate) fn make_room(connections: usize) -> usize {
    let wanted = (connections as u64).saturating_add(OTHER_FILES);
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let mut allowed = limit.current.unwrap_or(u64::MAX);
    if allowed < most {
        match setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum }) {
            Ok(()) => allowed = most,
            Err(error) => tracing::warn!(%error, wanted = most, allowed, "the limit of open files cannot be raised"),
        }
    }
    let room = room(connections, allowed);
    if room < connections {
        tracing::warn!(
            max_connections = room,
            wanted = connections,
            open_files = allowed,
            "fewer connections than max_connections are taken: the system allows too few open files (`ulimit -n`, \
             LimitNOFILE of systemd)"
        );
    }
    room
}

/// Connections that so many files leave room for.
fn room(connections: usize, files: u64) -> usize {
    // With very few, half of them: some client should get in.
    let left = files.saturating_sub(OTHER_FILES).max(files / 2).max(1);
    connections.min(usize::try_from(left).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        assert_eq!(room(2048, 1 << 20), 2048);
        assert_eq!(room(2048, 1024), 768);
        assert_eq!(room(2048, 300), 150);
        assert_eq!(room(10, 300), 10);
        assert_eq!(room(2048, 0), 1);
    }
}
