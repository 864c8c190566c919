//! The server's log: its end for error messages, and its total size kept within bounds.
//!
//! The server begins a new file when one is full and never deletes any; [`trim`] does.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// What the server prints before its own logging works, and what pg_ctl redirects.
pub(crate) const START_LOG: &str = "start.log";
/// So many full files are kept. With the one being written: 64 MiB.
const KEPT_FILES: usize = 8;
/// For messages.
const TAIL_BYTES: u64 = 3000;

/// The files of the log, oldest first.
fn files(log_dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(log_dir) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with("server-")
        })
        .collect();
    // The names are made of the time.
    paths.sort();
    paths
}

/// Deletes the oldest files beyond the number that is kept.
pub(crate) fn trim(log_dir: &Path) {
    let paths = files(log_dir);
    for path in paths.iter().take(paths.len().saturating_sub(KEPT_FILES)) {
        if let Err(error) = fs::remove_file(path) {
            // Every process that uses the server trims: another one may have been faster.
            tracing::debug!(path = %path.display(), %error, "cannot remove an old server log");
        }
    }
}

/// The last lines of the newest file and of what was printed at the start.
pub(crate) fn tail(log_dir: &Path) -> String {
    let mut text = end_of(&log_dir.join(START_LOG));
    if let Some(newest) = files(log_dir).last() {
        text.push('\n');
        text.push_str(&end_of(newest));
    }
    let kept = text.lines().filter(|line| {
        // These two say only where the rest is.
        !line.contains("redirecting log output") && !line.contains("Future log output will appear")
    });
    kept.collect::<Vec<_>>().join("\n").trim().to_owned()
}

fn end_of(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let bytes = file.metadata()?.len();
        file.seek(SeekFrom::Start(bytes.saturating_sub(TAIL_BYTES)))?;
        let mut end = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut end)?;
        Ok(end)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_files_are_kept_and_the_tail_is_of_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        for number in 10..30 {
            fs::write(dir.path().join(format!("server-202601{number}-000000.log")), format!("line {number}\n"))
                .unwrap();
        }
        fs::write(dir.path().join(START_LOG), "LOG:  redirecting log output to logging collector process\nodd\n")
            .unwrap();
        trim(dir.path());
        assert_eq!(files(dir.path()).len(), KEPT_FILES);
        assert_eq!(tail(dir.path()), "odd\n\nline 29");
        assert!(dir.path().join(START_LOG).exists());
    }
}
