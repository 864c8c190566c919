//! A disk that can be filled at will: a tmpfs whose size is lowered to what it holds.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow};

/// A mounted tmpfs, unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    bytes: u64,
}

impl Disk {
    /// Mounts a disk of this size at an existing directory.
    ///
    /// # Errors
    /// If this process must not mount, which is the case for all but root.
    pub fn mount(path: &Path, bytes: u64) -> Result<Self> {
        let options = format!("size={bytes},mode=0755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "oracle"]).arg(path))?;
        Ok(Self { path: path.to_owned(), bytes })
    }

    /// Leaves no free byte.
    ///
    /// # Errors
    /// If the disk cannot be changed.
    pub fn fill(&self) -> Result<()> {
        // Somebody may be writing between the look and the change, which is then refused.
        let mut last = Ok(());
        for _ in 0..50 {
            let stat = rustix::fs::statvfs(&self.path).with_context(|| format!("look at {}", self.path.display()))?;
            let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
            last = self.resize(used.max(stat.f_frsize));
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// Gives the free space back.
    ///
    /// # Errors
    /// If the disk cannot be changed.
    pub fn free(&self) -> Result<()> {
        self.resize(self.bytes)
    }

    fn resize(&self, bytes: u64) -> Result<()> {
        run(Command::new("mount").args(["-o", &format!("remount,size={bytes}")]).arg(&self.path))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is just ending may still hold a file.
        if let Err(error) = run(Command::new("umount").arg("-l").arg(&self.path)) {
            #[expect(clippy::print_stderr, reason = "what is left behind must be seen")]
            {
                eprintln!("{}: {error:#}", self.path.display());
            }
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(anyhow!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
