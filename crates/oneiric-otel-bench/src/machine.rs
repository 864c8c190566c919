//! The machine that something was measured on.

use std::fs;

use serde::Serialize;

/// What a figure depends on, apart from what was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name, as it says.
    pub processor: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// Bytes of memory; none where it cannot be told.
    pub memory_bytes: Option<u64>,
    /// Operating system and architecture, with the kernel's version where it can be told.
    pub system: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let first = |text: &str, key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.split_once(':'))?.1;
            Some(value.trim().to_owned())
        };
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let memory = first(&read("/proc/meminfo"), "MemTotal");
        let kilobytes = memory.and_then(|memory| memory.strip_suffix(" kB")?.parse::<u64>().ok());
        let kernel = read("/proc/sys/kernel/osrelease");
        Self {
            processor: first(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kilobytes.map(|kilobytes| kilobytes * 1024),
            system: format!("{} {} {}", std::env::consts::OS, std::env::consts::ARCH, kernel.trim()),
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        let memory = self.memory_bytes.map_or_else(String::new, |bytes| format!(", {:.1} GiB", gib(bytes)));
        format!("{} processors ({}){memory}, {}", self.processors, self.processor, self.system.trim())
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}
