//! Other processes, as Linux shows them: signals, children, processor time and memory.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

/// Ticks of processor time in `/proc`. Linux has shown 100 on every architecture for decades.
const TICKS_PER_SECOND: u64 = 100;

/// Sends a signal.
///
/// # Errors
/// If there is no such process, or it is another user's.
pub fn send(pid: u32, signal: Signal) -> Result<()> {
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is no process id"))?;
    kill_process(target, signal).with_context(|| format!("signal {signal:?} to process {pid}"))
}

/// Whether the process is there and not a zombie.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_ok_and(|stat| stat.state != 'Z' && stat.state != 'X')
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|child| stat(*child).is_ok_and(|stat| stat.parent == pid))
        .collect()
}

/// The title of a process.
pub fn title(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    stat(pid).ok().map(|stat| stat.parent)
}

/// Processor time of a process, its threads included and its children not. None where Linux does not show it.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    stat(pid).ok().map(|stat| Duration::from_millis(stat.own_ticks * 1000 / TICKS_PER_SECOND))
}

/// Processor time of a process, of the children it has waited for, and of those that live.
pub fn cpu_time_of_tree(pid: u32) -> Duration {
    let waited_for = || stat(pid).map_or(0, |stat| stat.ticks - stat.own_ticks);
    let ticks = loop {
        let before = waited_for();
        let living: u64 = children(pid).into_iter().filter_map(|child| Some(stat(child).ok()?.ticks)).sum();
        let ticks = stat(pid).map_or(0, |stat| stat.ticks);
        // A child that ended between two readings would be counted by both or by none.
        if waited_for() == before {
            break ticks + living;
        }
    };
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// Resident memory, now and at its highest, in bytes.
pub fn resident(pid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let bytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    Some((bytes("VmRSS:")?, bytes("VmHWM:")?))
}

/// Lets this process, and those it starts, have at least this many files open.
///
/// # Errors
/// If the hard limit is lower.
pub fn allow_open_files(count: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= count) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < count) {
        return Err(anyhow!("{count} open files are needed, and the hard limit is {:?}", limit.maximum));
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum: limit.maximum }).context("raise RLIMIT_NOFILE")
}

struct Stat {
    state: char,
    parent: u32,
    own_ticks: u64,
    /// With those of children that were waited for.
    ticks: u64,
}

fn stat(pid: u32) -> Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses, which may contain anything.
    let (_, rest) = text.rsplit_once(')').context("no program name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| -> Result<u64> { Ok(fields.get(index).context("too short")?.parse()?) };
    let own_ticks = number(11)? + number(12)?;
    Ok(Stat {
        state: fields.first().and_then(|state| state.chars().next()).context("no state")?,
        parent: u32::try_from(number(1)?)?,
        // Fields 14 to 17: in user mode, in the kernel, and both of children that were waited for.
        own_ticks,
        ticks: own_ticks + number(13)? + number(14)?,
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::cpu_time_of_tree;

    #[test]
    fn time_of_children_that_end_meanwhile_is_counted_once() {
        let done = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for _ in 0..25 {
                    let count = "i=0; while [ $i -lt 30000 ]; do i=$((i + 1)); done";
                    assert!(Command::new("sh").args(["-c", count]).status().unwrap().success());
                }
                done.store(true, Ordering::Relaxed);
            });
            let mut last = cpu_time_of_tree(std::process::id());
            while !done.load(Ordering::Relaxed) {
                let now = cpu_time_of_tree(std::process::id());
                assert!(last <= now, "{now:?} after {last:?}");
                last = now;
            }
        });
    }
}
