//! Fetches one pinned wheel with the pip that the user has.
//!
//! pip is used as the user configured it: index, proxies, certificates and cache are theirs, no host is named here.
//! The hash is given to pip, and the caller checks it again.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::PartsError;
use crate::part::{PYTHON_TAG, Part};
use crate::progress::Progress;

/// How often the size of the growing file is looked at. Only the display depends on it.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// pip explains a failure in its last lines.
const OUTPUT_TAIL_BYTES: usize = 2000;

/// A working pip.
#[derive(Debug)]
pub(crate) struct Pip {
    program: PathBuf,
    arguments: Vec<&'static str>,
    environment: Vec<(OsString, OsString)>,
}

impl Pip {
    /// The first of `python3 -m pip`, `python -m pip`, `pip3` and `pip` in `search_path` (as in `PATH`) that answers.
    /// `environment` is added to what the commands inherit.
    pub(crate) fn find(search_path: &OsStr, environment: &[(OsString, OsString)]) -> Option<Self> {
        let candidates: [(&str, &[&'static str]); 4] =
            [("python3", &["-m", "pip"]), ("python", &["-m", "pip"]), ("pip3", &[]), ("pip", &[])];
        for (name, arguments) in candidates {
            let Some(program) = find_program(search_path, name) else { continue };
            let pip = Self { program, arguments: arguments.to_vec(), environment: environment.to_vec() };
            // An interpreter without the module pip, or a stale shim, is as good as none.
            let answers = pip
                .command()
                .arg("--version")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success());
            if answers {
                return Some(pip);
            }
            tracing::debug!(program = %pip.program.display(), "no usable pip here");
        }
        None
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        // Nothing is installed, so a configuration that insists on a virtual environment must not stop it.
        command.env("PIP_REQUIRE_VIRTUALENV", "0");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Downloads the wheel of `part` into `work_dir`, an empty directory of the caller's own, and returns its path.
    pub(crate) fn download(
        &self,
        part: &Part,
        work_dir: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, PartsError> {
        let wheels = work_dir.join("wheels");
        let scratch = work_dir.join("scratch");
        for dir in [&wheels, &scratch] {
            fs::create_dir(dir).map_err(PartsError::io("create", dir))?;
        }
        let requirements = work_dir.join("requirements.txt");
        let line = format!("{}=={} --hash=sha256:{}\n", part.name, part.version, part.sha256);
        fs::write(&requirements, line).map_err(PartsError::io("write", &requirements))?;
        let log_path = work_dir.join("pip.log");
        let log = fs::File::create(&log_path).map_err(PartsError::io("create", &log_path))?;
        let log_too = log.try_clone().map_err(PartsError::io("open", &log_path))?;

        let mut command = self.command();
        command
            .args(["download", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"])
            .args(["--no-deps", "--only-binary=:all:", "--require-hashes"])
            .args(["--python-version", PYTHON_TAG, "--implementation", "cp", "--platform", &part.platform])
            .arg("--dest")
            .arg(&wheels)
            .arg("--requirement")
            .arg(&requirements)
            // pip writes the growing file below TMPDIR, where its size can be seen, and from where it is cleaned up.
            .env("TMPDIR", &scratch)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too);

        let mut child = command.spawn().map_err(PartsError::io("run", &self.program))?;
        let mut shown = 0;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(PartsError::io("wait for", &self.program))? {
                break status;
            }
            let seen = largest_file_bytes(work_dir).min(part.download_bytes);
            if seen > shown {
                progress.advance(seen - shown);
                shown = seen;
            }
            std::thread::sleep(LOOK_EVERY);
        };
        let failure = |status: String| {
            let output = fs::read(&log_path).unwrap_or_default();
            let tail = output.get(output.len().saturating_sub(OUTPUT_TAIL_BYTES)..).unwrap_or_default();
            PartsError::Download {
                part: part.title(),
                command: format!("{} {} download", self.program.display(), self.arguments.join(" ")),
                status,
                output: String::from_utf8_lossy(tail).trim().to_owned(),
                ways_out: part.ways_out,
            }
        };
        if !status.success() {
            return Err(failure(status.to_string()));
        }
        progress.advance(part.download_bytes.saturating_sub(shown));
        let entries = fs::read_dir(&wheels).map_err(PartsError::io("read", &wheels))?;
        for entry in entries {
            let path = entry.map_err(PartsError::io("read", &wheels))?.path();
            if path.extension() == Some(OsStr::new("whl")) {
                return Ok(path);
            }
        }
        Err(failure("it left no wheel".to_owned()))
    }
}

/// The first executable file called `name` in the directories of `search_path`.
pub(crate) fn find_program(search_path: &OsStr, name: &str) -> Option<PathBuf> {
    std::env::split_paths(search_path).map(|dir| dir.join(name)).find(|path| is_executable(path))
}

pub(crate) fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The size of the largest file below `dir`: pip holds the wheel in one place and later copies it to another, and
/// only one of the two counts.
fn largest_file_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let mut largest = 0;
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        let bytes = if meta.is_dir() { largest_file_bytes(&entry.path()) } else { meta.len() };
        largest = largest.max(bytes);
    }
    largest
}
