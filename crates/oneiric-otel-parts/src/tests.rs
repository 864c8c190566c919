//! Installs real parts with the real pip, and breaks what can break with small wheels made here.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::part::Part;

use super::*;

/// Where a test that starts itself a second time finds its directory.
const CHILD_DIR: &str = "ONEIRIC_OTEL_PARTS_TEST_DIR";

/// Writes down what it is told.
#[derive(Default)]
struct Recorder {
    steps: Mutex<Vec<(String, Option<u64>, u64)>>,
    notes: Mutex<Vec<String>>,
}

impl Progress for Recorder {
    fn begin(&self, what: &str, total_bytes: Option<u64>) {
        self.steps.lock().unwrap().push((what.to_owned(), total_bytes, 0));
    }
    fn advance(&self, bytes: u64) {
        self.steps.lock().unwrap().last_mut().unwrap().2 += bytes;
    }
    fn finish(&self) {}
    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.to_owned());
    }
}

/// A directory with a small wheel in `wheels/` and room for a cache in `cache/`.
struct Stage {
    dir: tempfile::TempDir,
    part: Part,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let wheels = dir.path().join("wheels");
        fs::create_dir(&wheels).unwrap();
        let path = wheels.join("oneiric_otel_sample-1.0-py3-none-any.whl");
        write_wheel(&path);
        let part = sample_part(&path);
        Self { dir, part }
    }

    fn cache(&self) -> Cache {
        cache_in(self.dir.path())
    }

    fn installed(&self) -> PathBuf {
        self.dir.path().join("cache/parts").join(self.part.dir_name())
    }

    /// A directory with a `python3` that is this shell script.
    fn write_python(&self, script: &str) -> PathBuf {
        let bin = self.dir.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        let path = bin.join("python3");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        bin
    }

    /// What lies in the cache besides the lock.
    fn left_in_cache(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.path().join("cache/parts"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| Path::new(name).extension() != Some(OsStr::new("lock")))
            .collect();
        names.sort();
        names
    }
}

/// The real pip, which looks at nothing but `wheels/`.
fn cache_in(dir: &Path) -> Cache {
    Cache {
        root: dir.join("cache"),
        search_path: std::env::var_os("PATH").unwrap(),
        pip_environment: vec![
            ("PIP_NO_INDEX".into(), "1".into()),
            ("PIP_FIND_LINKS".into(), dir.join("wheels").into()),
            ("PIP_NO_CACHE_DIR".into(), "1".into()),
        ],
    }
}

fn sample_part(wheel: &Path) -> Part {
    Part {
        name: "oneiric-otel-sample".to_owned(),
        version: "1.0".to_owned(),
        platform: "any".to_owned(),
        sha256: cache::hash_file(wheel).unwrap(),
        download_bytes: fs::metadata(wheel).unwrap().len(),
        prefixes: vec!["sample/bin/".to_owned(), "sample/share/".to_owned()],
        ways_out: "or do without",
    }
}

fn write_wheel(path: &Path) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let plain = zip::write::SimpleFileOptions::default().unix_permissions(0o644);
    let program = plain.unix_permissions(0o755);
    let info = "oneiric_otel_sample-1.0.dist-info";
    let data = vec![7; 100_000];
    let files: [(&str, _, &[u8]); 6] = [
        ("sample/bin/tool", program, b"#!/bin/sh\necho works\n"),
        ("sample/share/deep/er/data", plain, &data),
        ("sample/__init__.py", plain, b"raise SystemExit\n"),
        (&format!("{info}/METADATA"), plain, b"Metadata-Version: 2.1\nName: oneiric-otel-sample\nVersion: 1.0\n"),
        (
            &format!("{info}/WHEEL"),
            plain,
            b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        (&format!("{info}/RECORD"), plain, b""),
    ];
    for (name, options, content) in files {
        zip.start_file(name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
}

fn real_python() -> PathBuf {
    pip::find_program(&std::env::var_os("PATH").unwrap(), "python3").unwrap()
}

/// Starts the test of this name again in a process of its own.
fn start_again(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits for a condition that another process or thread is about to make true.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !condition() {
        assert!(Instant::now() < deadline, "gave up waiting: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_real_parts_are_installed_and_later_found_without_pip() {
    let mut parts = Parts::open_default().unwrap();
    (parts.postgres_dir, parts.model_dir) = (None, None);
    let postgres = parts.postgres(&Silent).unwrap();
    let postgres18 = parts.postgres18(&Silent).unwrap();
    for (dir, major) in [(&postgres, 16), (&postgres18, 18)] {
        assert_eq!(installation::check(dir), Ok(major));
        assert!(installation::has_pgvector(dir, major));
    }
    let model = parts.minilm(&Silent).unwrap();
    for (name, bytes) in [("model.safetensors", 90_868_376), ("tokenizer.json", 466_247), ("config.json", 612)] {
        assert_eq!(fs::metadata(model.join(name)).unwrap().len(), bytes, "{name}");
    }

    parts.cache.search_path = OsString::new();
    let recorder = Recorder::default();
    assert_eq!(parts.postgres(&recorder).unwrap(), postgres);
    assert_eq!(parts.minilm(&recorder).unwrap(), model);
    assert!(recorder.steps.lock().unwrap().is_empty(), "a part that is there needs no step");

    // Both installations are whole, so the choice among installations can be tried on them.
    let candidates = [PathBuf::from("/nowhere"), postgres, postgres18.clone()];
    assert_eq!(installation::newest_with_pgvector(&candidates), Some(postgres18));
}

#[test]
fn a_part_is_unpacked_as_described_with_its_modes_and_its_progress() {
    let stage = Stage::new();
    let recorder = Recorder::default();
    let dir = stage.cache().provide(&stage.part, &recorder).unwrap();
    assert_eq!(dir, stage.installed());
    let output = Command::new(dir.join("sample/bin/tool")).output().unwrap();
    assert_eq!(output.stdout, b"works\n");
    let mode = |path: &str| fs::metadata(dir.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("sample/bin/tool"), 0o755);
    assert_eq!(mode("sample/share/deep/er"), 0o755);
    assert_eq!(mode("sample/share/deep/er/data"), 0o644);
    assert_eq!(mode(""), 0o755);
    assert!(!dir.join("sample/__init__.py").exists(), "only what was asked for is unpacked");
    assert_eq!(stage.left_in_cache(), [stage.part.dir_name()]);

    let steps = recorder.steps.lock().unwrap();
    let unpacked_bytes = 100_000 + b"#!/bin/sh\necho works\n".len() as u64;
    let (download, unpack) = (&steps[0], &steps[1]);
    assert_eq!(steps.len(), 2, "{steps:?}");
    assert_eq!((download.1, download.2), (Some(stage.part.download_bytes), stage.part.download_bytes));
    assert_eq!((unpack.1, unpack.2), (Some(unpacked_bytes), unpacked_bytes));
}

#[test]
fn a_damaged_part_is_installed_again() {
    let stage = Stage::new();
    let cache = stage.cache();
    let dir = cache.provide(&stage.part, &Silent).unwrap();
    let (tool, data) = (dir.join("sample/bin/tool"), dir.join("sample/share/deep/er/data"));
    let damages: [(&str, &dyn Fn()); 5] = [
        ("a missing file", &|| fs::remove_file(&tool).unwrap()),
        ("a cut file", &|| fs::write(&data, "short").unwrap()),
        ("a lost mode", &|| fs::set_permissions(&tool, fs::Permissions::from_mode(0o644)).unwrap()),
        ("no manifest", &|| fs::remove_file(dir.join(manifest::FILE_NAME)).unwrap()),
        ("half a manifest", &|| fs::write(dir.join(manifest::FILE_NAME), "{\"sha256\":").unwrap()),
    ];
    for (what, damage) in damages {
        damage();
        assert_eq!(cache.find(&stage.part), None, "{what} goes unnoticed");
        assert_eq!(cache.provide(&stage.part, &Silent).unwrap(), dir, "{what}");
        assert_eq!(Command::new(&tool).output().unwrap().stdout, b"works\n", "{what}");
        assert_eq!(fs::metadata(&data).unwrap().len(), 100_000, "{what}");
        assert_eq!(stage.left_in_cache(), [stage.part.dir_name()], "{what}");
    }
}

#[test]
fn a_wrong_hash_is_refused_by_pip_and_by_us() {
    let mut stage = Stage::new();
    let right = std::mem::replace(&mut stage.part.sha256, "0".repeat(64));
    let error = stage.cache().provide(&stage.part, &Silent).unwrap_err();
    assert!(matches!(error, PartsError::Download { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&right) && text.contains("or do without"), "{text}");
    assert!(!stage.installed().exists());

    // A pip that does not look at hashes.
    let bin = stage.write_python(&format!(
        "test \"$3\" = --version && exit 0\n\
         while [ $# -gt 0 ]; do test \"$1\" = --dest && dest=$2; shift; done\n\
         cp '{}'/wheels/*.whl \"$dest\"",
        stage.dir.path().display()
    ));
    let cache =
        Cache { search_path: std::env::join_paths([bin, "/bin".into(), "/usr/bin".into()]).unwrap(), ..stage.cache() };
    let error = cache.provide(&stage.part, &Silent).unwrap_err();
    assert!(matches!(&error, PartsError::HashMismatch { found, .. } if *found == right), "{error}");
    assert!(!stage.installed().exists());
}

#[test]
fn a_wheel_that_is_no_archive_or_lacks_the_files_is_refused() {
    let mut stage = Stage::new();
    stage.part.prefixes = vec!["elsewhere/".to_owned()];
    let error = stage.cache().provide(&stage.part, &Silent).unwrap_err();
    assert!(matches!(&error, PartsError::Archive { reason, .. } if reason.contains("elsewhere/")), "{error}");

    let broken = stage.dir.path().join("broken.whl");
    fs::write(&broken, "not a zip archive").unwrap();
    let tree = stage.dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let error = wheel::unpack(&stage.part, &broken, &tree, &Silent).unwrap_err();
    assert!(matches!(error, PartsError::Archive { .. }), "{error}");
}

#[test]
fn processes_that_start_at_once_install_once() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        let dir = PathBuf::from(dir);
        let part = sample_part(&dir.join("wheels/oneiric_otel_sample-1.0-py3-none-any.whl"));
        let cache = Cache { search_path: dir.join("bin").into(), ..cache_in(&dir) };
        cache.provide(&part, &Silent).unwrap();
        return;
    }
    let stage = Stage::new();
    let log = stage.dir.path().join("calls");
    // The real pip, counted and slowed down so that the others arrive while it runs.
    stage.write_python(&format!(
        "if [ \"$3\" = download ]; then echo call >> '{}'; sleep 0.3; fi\nPATH='{}' exec '{}' \"$@\"",
        log.display(),
        std::env::var("PATH").unwrap(),
        real_python().display()
    ));
    let children: Vec<Child> =
        (0..4).map(|_| start_again("tests::processes_that_start_at_once_install_once", stage.dir.path())).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(fs::read_to_string(&log).unwrap(), "call\n");
    assert_eq!(stage.cache().find(&stage.part), Some(stage.installed()));
    assert_eq!(stage.left_in_cache(), [stage.part.dir_name()]);
}

#[test]
fn a_second_process_says_that_it_waits() {
    let stage = Stage::new();
    let cache = stage.cache();
    let parts_dir = stage.dir.path().join("cache/parts");
    fs::create_dir_all(&parts_dir).unwrap();
    let lock = fs::File::create(parts_dir.join(format!(".{}.lock", stage.part.dir_name()))).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let recorder = Recorder::default();
    std::thread::scope(|scope| {
        let install = scope.spawn(|| cache.provide(&stage.part, &recorder));
        wait_until("the step that says it waits", || {
            recorder.steps.lock().unwrap().first().is_some_and(|step| step.0.starts_with("waiting for another process"))
        });
        assert!(!stage.installed().exists());
        drop(lock);
        assert_eq!(install.join().unwrap().unwrap(), stage.installed());
    });
}

#[test]
fn a_killed_installation_leaves_nothing_broken() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        let dir = PathBuf::from(dir);
        let part = sample_part(&dir.join("wheels/oneiric_otel_sample-1.0-py3-none-any.whl"));
        let search_path = std::env::join_paths([dir.join("bin"), "/bin".into(), "/usr/bin".into()]).unwrap();
        let cache = Cache { search_path, ..cache_in(&dir) };
        cache.provide(&part, &Silent).unwrap();
        return;
    }
    let stage = Stage::new();
    let pid_path = stage.dir.path().join("pid");
    // A download that gets stuck in the middle of the file.
    stage.write_python(&format!(
        "test \"$3\" = --version && exit 0\n\
         echo half > \"$TMPDIR/half.whl\"\n\
         echo $$ > '{0}.new'; mv '{0}.new' '{0}'\n\
         exec sleep 600",
        pid_path.display()
    ));
    let mut child = start_again("tests::a_killed_installation_leaves_nothing_broken", stage.dir.path());
    wait_until("the stuck download", || pid_path.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let stuck: i32 = fs::read_to_string(&pid_path).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(stuck).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    let left = stage.left_in_cache();
    assert_eq!(left, [format!(".{}.tmp", stage.part.dir_name())], "the half download is there, the part is not");

    assert_eq!(stage.cache().provide(&stage.part, &Silent).unwrap(), stage.installed());
    assert_eq!(stage.left_in_cache(), [stage.part.dir_name()], "what the dead process left is gone");
}

#[test]
fn without_pip_the_error_names_the_three_ways() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = Parts::at(dir.path().join("cache"));
    parts.drops_privileges = false;
    // A python3 without the module pip.
    let python = dir.path().join("python3");
    fs::write(&python, "#!/bin/sh\necho No module named pip >&2\nexit 1\n").unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    for search_path in [OsString::new(), dir.path().into()] {
        parts.cache.search_path = search_path;
        let recorder = Recorder::default();
        match (parts.postgres(&recorder), parts.system_postgres()) {
            // On a machine whose own PostgreSQL has pgvector the third way is taken, and said.
            (Ok(found), system) => {
                assert_eq!(Some(&found), system.as_ref());
                assert!(recorder.notes.lock().unwrap()[0].contains("using the system's PostgreSQL"));
            }
            (Err(error), None) => {
                assert!(matches!(error, PartsError::NoPip { .. }));
                let text = error.to_string();
                for way in ["ONEIRIC_OTEL_POSTGRES_DIR", "--database-url", "package manager"] {
                    assert!(text.contains(way), "{way} is missing in: {text}");
                }
            }
            (Err(error), Some(_)) => unreachable!("the system's PostgreSQL was not used: {error}"),
        }
        let text = parts.minilm(&Silent).unwrap_err().to_string();
        assert!(text.contains("ONEIRIC_OTEL_MODEL_DIR"), "{text}");
    }
    assert!(!dir.path().join("cache").exists(), "nothing is created before pip is found");
}

#[test]
fn a_platform_without_a_build_is_named_with_the_ways_out() {
    let text = part::postgres_for("freebsd", "riscv64").unwrap_err().to_string();
    assert!(text.contains("freebsd on riscv64") && text.contains("ONEIRIC_OTEL_POSTGRES_DIR"), "{text}");
}

#[test]
fn a_directory_that_others_cannot_enter_is_refused_before_the_download() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let mut parts = Parts::at(dir.path().join("cache"));
    parts.drops_privileges = true;
    let error = parts.postgres18(&Silent).unwrap_err();
    assert!(matches!(&error, PartsError::Unreachable { ancestor, .. } if Path::new(ancestor) == dir.path()), "{error}");
    assert!(error.to_string().contains("ONEIRIC_OTEL_CACHE_DIR"), "{error}");
    assert!(!dir.path().join("cache").exists());
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let stage = Stage::new();
    let cache = Cache { root: file.clone(), ..stage.cache() };
    let text = cache.provide(&stage.part, &Silent).unwrap_err().to_string();
    assert!(text.contains(file.to_str().unwrap()), "{text}");
}

#[test]
fn overrides_are_used_when_they_are_whole_and_explained_when_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = Parts::at(dir.path().join("cache"));
    parts.postgres_dir = Some(dir.path().join("pg"));
    parts.model_dir = Some(dir.path().join("model"));
    let text = parts.postgres(&Silent).unwrap_err().to_string();
    assert!(text.starts_with("ONEIRIC_OTEL_POSTGRES_DIR=") && text.contains("bin/postgres"), "{text}");
    let text = parts.minilm(&Silent).unwrap_err().to_string();
    assert!(text.starts_with("ONEIRIC_OTEL_MODEL_DIR=") && text.contains("model.safetensors"), "{text}");

    fs::create_dir(dir.path().join("model")).unwrap();
    for name in part::MODEL_FILES {
        fs::write(dir.path().join("model").join(name), "{}").unwrap();
    }
    assert_eq!(parts.minilm(&Silent).unwrap(), dir.path().join("model"));

    // An installation that is too old, and one that is not an installation but says something else.
    fs::create_dir_all(dir.path().join("pg/bin")).unwrap();
    for (says, expected) in [("postgres (PostgreSQL) 14.9", "PostgreSQL 14"), ("hello", "does not state a version")] {
        for program in ["postgres", "initdb", "pg_ctl"] {
            let path = dir.path().join("pg/bin").join(program);
            fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let text = parts.postgres(&Silent).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}
