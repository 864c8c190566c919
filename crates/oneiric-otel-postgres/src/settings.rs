//! The server's settings: written afresh at each start, from the machine it runs on.
//!
//! `postgresql.conf` includes `oneiric-otel.conf`, which is ours, and then `local.conf`, if the user made one: that is
//! the place for settings of their own.

use std::fs;
use std::io::Read as _;
use std::path::Path;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The name of the file in the cluster's directory.
pub(crate) const FILE_NAME: &str = "oneiric-otel.conf";
/// The user's own settings; ours to create, never to change.
pub(crate) const LOCAL_FILE_NAME: &str = "local.conf";
pub(crate) const LOCAL_TEXT: &str = "# Settings of your own go here; they win over those of oneiric-otel.\n";
/// What `postgresql.conf` gets when the cluster is made.
pub(crate) const INCLUDES: &str = "\n# What oneiric-otel sets, rewritten at each start of the server:\n\
     include_if_exists = 'oneiric-otel.conf'\n\
     # Settings of your own, which win:\n\
     include_if_exists = 'local.conf'\n";
/// A file of the server's log ends at this size.
pub(crate) const LOG_FILE_BYTES: u64 = 8 * MIB;

/// What the settings depend on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    /// Memory that this process may use, bytes.
    memory: u64,
    /// Free space on the disk of the cluster, bytes.
    disk_free: u64,
    /// Size of the shared memory file system; 0 if there is none.
    shared_memory: u64,
}

impl Machine {
    /// Looks at the machine. What cannot be found out is taken to be modest.
    pub(crate) fn look(cluster: &Path) -> Self {
        let space = |path: &Path| rustix::fs::statvfs(path).ok();
        Self {
            memory: memory_bytes().unwrap_or(2 * GIB),
            disk_free: space(cluster).map_or(10 * GIB, |stat| stat.f_bavail * stat.f_frsize),
            shared_memory: space(Path::new("/dev/shm")).map_or(0, |stat| stat.f_blocks * stat.f_frsize),
        }
    }
}

/// The text of the settings file. `log_dir` is absolute.
pub(crate) fn text(machine: Machine, log_dir: &Path) -> String {
    let shared_buffers = (machine.memory / 4).clamp(128 * MIB, GIB);
    let maintenance_work_mem = (machine.memory / 16).clamp(64 * MIB, 512 * MIB);
    let cache_size = (machine.memory / 2).max(256 * MIB);
    // Few checkpoints under load, but never a large share of a small disk.
    let max_wal_size = (machine.disk_free / 10).clamp(512 * MIB, 4 * GIB);
    let min_wal_size = (max_wal_size / 8).max(80 * MIB);
    // Parallel index builds put their memory there; containers often have 64 MiB, which is too little.
    let dynamic_shared_memory = if cfg!(target_os = "linux") && machine.shared_memory < GIB { "mmap" } else { "posix" };

    let mut text =
        String::from("# Written by oneiric-otel at each start of the server; your own settings go to local.conf.\n");
    let log_dir = log_dir.to_string_lossy().replace('\\', "\\\\").replace('\'', "''");
    let log_file_kib = LOG_FILE_BYTES / 1024;
    let mut set = |name: &str, value: &str| {
        let line = format!("{name} = {value}\n");
        text.push_str(&line);
    };
    let mib = |bytes: u64| format!("{}MB", bytes / MIB);

    // Acknowledged means kept.
    set("fsync", "on");
    set("synchronous_commit", "on");
    set("full_page_writes", "on");

    set("max_connections", "64");
    set("shared_buffers", &mib(shared_buffers));
    set("dynamic_shared_memory_type", dynamic_shared_memory);
    set("effective_cache_size", &mib(cache_size));
    set("work_mem", "16MB");
    set("maintenance_work_mem", &mib(maintenance_work_mem));
    // Prepared statements, short queries: compiling them costs more than it saves.
    set("jit", "off");
    set("random_page_cost", "1.1");
    if cfg!(target_os = "linux") {
        // macOS refuses any other value than 0.
        set("effective_io_concurrency", "64");
    }
    set("max_parallel_workers_per_gather", "2");

    // No replica hangs on a private server, and index builds then need not be logged.
    set("wal_level", "minimal");
    set("max_wal_senders", "0");
    set("max_logical_replication_workers", "0");
    // Pages are logged whole when they are first touched after a checkpoint, by VACUUM most of all. To compress them with pglz,
    // which is all that this build of PostgreSQL has, took half of its time then: see "Growth" in docs/benchmarks.md.
    set("wal_compression", "off");
    set("wal_buffers", "16MB");
    set("max_wal_size", &mib(max_wal_size));
    set("min_wal_size", &mib(min_wal_size));
    set("checkpoint_timeout", "15min");
    set("checkpoint_completion_target", "0.9");

    // Partitions only grow; the queues are small and churn.
    set("autovacuum_naptime", "20s");
    set("autovacuum_max_workers", "2");
    set("autovacuum_vacuum_scale_factor", "0.05");
    set("autovacuum_analyze_scale_factor", "0.05");
    set("autovacuum_vacuum_cost_limit", "1000");

    set("timezone", "'UTC'");
    set("log_timezone", "'UTC'");
    set("logging_collector", "on");
    set("log_destination", "'stderr'");
    set("log_directory", &format!("'{log_dir}'"));
    // The time of day makes each file new, and so one that is full is never appended to.
    set("log_filename", "'server-%Y%m%d-%H%M%S.log'");
    set("log_rotation_size", &format!("{log_file_kib}kB"));
    set("log_rotation_age", "0");
    set("log_file_mode", "0600");
    set("log_line_prefix", "'%m [%p] %q%a '");
    set("log_min_messages", "warning");
    // Statements carry telemetry.
    set("log_min_error_statement", "panic");
    set("log_checkpoints", "off");
    text
}

/// The memory of the machine, or of the container if that is less.
fn memory_bytes() -> Option<u64> {
    if cfg!(target_os = "macos") {
        let output = std::process::Command::new("/usr/sbin/sysctl").args(["-n", "hw.memsize"]).output().ok()?;
        return String::from_utf8(output.stdout).ok()?.trim().parse().ok();
    }
    let mut text = String::new();
    fs::File::open("/proc/meminfo").ok()?.read_to_string(&mut text).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        // Without a limit the file says "max", or a number beyond any memory.
        .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
        .min();
    Some(limit.map_or(total, |limit| limit.min(total)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_machine_within_bounds() {
        let small = Machine { memory: GIB / 4, disk_free: GIB, shared_memory: 64 * MIB };
        let text_of = |machine| text(machine, Path::new("/it's/log"));
        let text = text_of(small);
        for line in ["shared_buffers = 128MB", "max_wal_size = 512MB", "log_directory = '/it''s/log'"] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
        }
        let large = Machine { memory: 256 * GIB, disk_free: 4096 * GIB, shared_memory: 128 * GIB };
        let text = text_of(large);
        for line in ["shared_buffers = 1024MB", "max_wal_size = 4096MB", "dynamic_shared_memory_type = posix"] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
        }
    }
}
