//! Whose a test database is: the process that made it, told by the database's name.
//!
//! A name is `oneiric_test_<machine>_<pid>_<start>_<number>`, all in lower-case hex. The start time tells a process
//! from a later one with the same pid; the machine keeps two machines, or two containers, that test on one server
//! from taking each other's databases for abandoned.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

use anyhow::{Context as _, Result};

const PREFIX: &str = "oneiric_test";

/// A process on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    machine: u32,
    pid: u32,
    /// As the kernel counts it; 0 where that is not known.
    start: u64,
}

impl Owner {
    pub(crate) fn this_process() -> Result<Self> {
        Self::of_process(std::process::id())
    }

    pub(crate) fn of_process(pid: u32) -> Result<Self> {
        let start = start_time(pid).with_context(|| format!("there is no process {pid}"))?;
        Ok(Self { machine: this_machine(), pid, start })
    }

    pub(crate) fn database_name(self, number: u64) -> String {
        format!("{PREFIX}_{:x}_{:x}_{:x}_{number:x}", self.machine, self.pid, self.start)
    }

    /// None for a database that no test made.
    pub(crate) fn of_database(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('_')?.split('_');
        let machine = u32::from_str_radix(parts.next()?, 16).ok()?;
        let pid = u32::from_str_radix(parts.next()?, 16).ok()?;
        let start = u64::from_str_radix(parts.next()?, 16).ok()?;
        u64::from_str_radix(parts.next()?, 16).ok()?;
        parts.next().is_none().then_some(Self { machine, pid, start })
    }

    /// None for a role that no test made: its name is that of a database and a suffix.
    pub(crate) fn of_role(name: &str) -> Option<Self> {
        let suffix = name.match_indices('_').nth(5)?.0;
        Self::of_database(name.get(..suffix)?)
    }

    /// Whether the process is known to have ended. A process of another machine is never known to.
    pub(crate) fn is_gone(self) -> bool {
        self.machine == this_machine() && start_time(self.pid) != Some(self.start)
    }
}

/// When the process started, or None if there is none.
#[cfg(target_os = "linux")]
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may contain anything; the start is field 22.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
fn start_time(pid: u32) -> Option<u64> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    // Another user's process answers with a refusal, which also says that it is there.
    match rustix::process::test_kill_process(pid) {
        Err(rustix::io::Errno::SRCH) => None,
        _ => Some(0),
    }
}

/// The same for all processes that see each other's pids.
fn this_machine() -> u32 {
    // DefaultHasher::new has fixed keys; a toolchain with another algorithm merely leaves old databases alone.
    let mut hasher = DefaultHasher::new();
    for file in ["/etc/machine-id", "/etc/hostname"] {
        std::fs::read(file).unwrap_or_default().hash(&mut hasher);
    }
    std::fs::read_link("/proc/self/ns/pid").unwrap_or_default().hash(&mut hasher);
    hasher.finish() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_name_tells_its_owner() -> Result<()> {
        let owner = Owner::this_process()?;
        assert_eq!(Owner::of_database(&owner.database_name(17)), Some(owner));
        assert_eq!(Owner::of_role(&format!("{}_a_role", owner.database_name(17))), Some(owner));
        assert_eq!(Owner::of_role(&owner.database_name(17)), None);
        assert!(!owner.is_gone());
        let earlier = Owner { start: owner.start + 1, ..owner };
        assert!(earlier.is_gone(), "the same pid with another start is another process");
        let elsewhere = Owner { machine: owner.machine.wrapping_add(1), ..earlier };
        assert!(!elsewhere.is_gone());
        for foreign in
            ["postgres", "oneiric_test", "oneiric_test_x_1_2_3", "oneiric_test_1_2_3", "oneiric_test_1_2_3_4_5"]
        {
            assert_eq!(Owner::of_database(foreign), None, "{foreign}");
        }
        Ok(())
    }
}
