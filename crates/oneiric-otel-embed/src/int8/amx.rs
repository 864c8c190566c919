//! Products by AMX: a processor's eight tiles, of 16 rows of 64 bytes each. The one place that asks the kernel for something,
//! and one of the three that leave safe Rust.
//!
//! The compiler has no functions for these instructions yet, so they are written out. A panel for VNNI is, 16 columns at a time,
//! just what they take for a right operand: 16 groups of 4 rows.
//!
//! Tiles belong to a thread. Linux gives them to a process that has asked for them; it saves them around signals and when another
//! thread runs, which takes longer the more there is to save: so they are released as soon as a layer is done.

#![allow(unsafe_code)]

/// Rows of a tile: the left operand has a multiple of so many.
pub(super) const ROWS: usize = 16;
/// Bytes in a row of a tile: rows of the left operand have a multiple of so many values.
pub(super) const DEPTH: usize = 64;

/// Whether a process can use AMX.
#[allow(dead_code, reason = "elsewhere than on Linux and x86-64 it is always absent")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Amx {
    /// The processor does not have it, or the operating system does not know it.
    Absent,
    /// It is there, and Linux does not let this process use it.
    Refused,
    /// It can be used.
    Granted,
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(crate) use absent::{Tiles, amx};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) use present::{Tiles, amx};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod present {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid_count, _xgetbv};
    use std::cell::Cell;
    use std::marker::PhantomData;
    use std::sync::LazyLock;

    use super::super::kernel::{GROUP, WIDTH};
    use super::{Amx, DEPTH, ROWS};

    thread_local! {
        /// Whether this thread has configured its tiles.
        static CONFIGURED: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether this process can use AMX. Asks Linux for it, the first time.
    pub(crate) fn amx() -> Amx {
        static ANSWER: LazyLock<Amx> = LazyLock::new(|| {
            if !has_instructions() {
                Amx::Absent
            } else if is_permitted() {
                Amx::Granted
            } else {
                Amx::Refused
            }
        });
        *ANSWER
    }

    fn has_instructions() -> bool {
        use std::arch::is_x86_feature_detected as has;
        /// AMX-TILE and AMX-INT8 in what leaf 7 says in EDX.
        const INSTRUCTIONS: u32 = 1 << 24 | 1 << 25;
        /// The configuration of the tiles and the tiles, in what the operating system saves.
        const STATES: u64 = 1 << 17 | 1 << 18;

        // All processors with AMX have these too. They say that leaf 7 exists and that the system saves wide registers.
        if !(has!("avx512vnni") && has!("xsave")) {
            return false;
        }
        #[allow(unused_unsafe, reason = "asking the processor is unsafe before Rust 1.94")]
        // SAFETY: a processor with AVX-512 has the instruction, and leaf 7.
        let leaf = unsafe { __cpuid_count(7, 0) };
        // SAFETY: the processor has XSAVE, and the system uses it: else it would have no wide registers.
        leaf.edx & INSTRUCTIONS == INSTRUCTIONS && unsafe { saved_states() } & STATES == STATES
    }

    /// What the operating system saves when another thread runs.
    #[target_feature(enable = "xsave")]
    unsafe fn saved_states() -> u64 {
        // SAFETY: of this function's caller; register 0 always exists.
        unsafe { _xgetbv(0) }
    }

    /// Asks Linux (5.16 or newer) for the tiles, for all threads of the process. Older ones, and sandboxes, say no.
    fn is_permitted() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILE_DATA: libc::c_long = 18;
        // SAFETY: the call takes two numbers and touches no memory of ours. Room for signal handlers that is too small for the
        // tiles makes it fail.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA) == 0 }
    }

    /// What `ldtilecfg` reads.
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// Eight whole tiles.
    static CONFIG: Config = Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    /// The tiles of this thread, ready for products until it is dropped. It cannot leave the thread.
    pub(crate) struct Tiles(PhantomData<*const ()>);

    impl Tiles {
        /// Configures the tiles of this thread.
        ///
        /// # Panics
        /// When there are none, or they are configured already: errors in this crate.
        pub(crate) fn configure() -> Self {
            assert!(amx() == Amx::Granted, "there are no tiles");
            assert!(!CONFIGURED.replace(true), "the tiles are in use");
            // SAFETY: the processor has the instruction and the process may use it; it reads the 64 bytes of `CONFIG`, which are
            // a valid configuration. That no tile holds a value of the compiler's is said by naming all that change.
            unsafe {
                asm!(
                    "ldtilecfg [{config}]",
                    config = in(reg) &raw const CONFIG,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, preserves_flags, readonly),
                );
            }
            Self(PhantomData)
        }

        /// [`Running::multiply`](super::super::kernel::Running::multiply) for a multiple of [`ROWS`] rows of a multiple of
        /// [`DEPTH`] values.
        ///
        /// # Panics
        /// When the sizes do not fit together.
        #[expect(clippy::unused_self, reason = "it shows that the tiles are configured")]
        pub(crate) fn multiply(&self, rows: &[u8], depth: usize, panel: &[i8], sums: &mut [i32]) {
            assert!(
                depth > 0 && depth.is_multiple_of(DEPTH) && panel.len() == depth * WIDTH,
                "depth does not fit tiles"
            );
            assert!(rows.len().is_multiple_of(ROWS * depth), "rows do not fill tiles");
            assert!(sums.len() == rows.len() / depth * WIDTH, "sums do not fit");
            for (rows, sums) in rows.chunks_exact(ROWS * depth).zip(sums.chunks_exact_mut(ROWS * WIDTH)) {
                // SAFETY: `rows` has 16 rows of `depth` values and `sums` 16 of `WIDTH`, `panel` `depth` of `WIDTH`, as asserted.
                unsafe { multiply_16(rows.as_ptr(), depth, panel.as_ptr(), sums.as_mut_ptr()) };
            }
        }
    }

    impl Drop for Tiles {
        fn drop(&mut self) {
            // SAFETY: the processor has the instruction; nobody else on this thread uses the tiles, see `CONFIGURED`.
            unsafe {
                asm!(
                    "tilerelease",
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, preserves_flags),
                );
            }
            CONFIGURED.set(false);
        }
    }

    /// 16 rows by the whole panel.
    ///
    /// # Safety
    /// The tiles of this thread are configured as in [`CONFIG`]. `rows` points to 16 rows of `depth` values, a multiple of 64
    /// and not 0; `panel` to `depth` rows of [`WIDTH`], and `sums` to 16.
    unsafe fn multiply_16(rows: *const u8, depth: usize, panel: *const i8, sums: *mut i32) {
        // Distances below are those of a panel of 48 columns; a group of its rows is as long as a row of sums.
        const { assert!(WIDTH == 48 && GROUP == 4) };
        // SAFETY: a load takes 16 rows of 64 bytes: of the left operand `depth` apart, at 64 values further on each time, `depth /
        // 64` times; of the panel 192 apart, from each of the 3 x 16 columns on, 16 groups further on each time. A store
        // writes 16 rows of 16 sums 192 bytes apart. All that lies in what the caller vouches for.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "2:",
                "tileloadd tmm3, [{rows} + {row_bytes} * 1]",
                "tileloadd tmm4, [{panel} + {group_bytes} * 1]",
                "tdpbusd tmm0, tmm3, tmm4",
                "tileloadd tmm5, [{panel} + {group_bytes} * 1 + 64]",
                "tdpbusd tmm1, tmm3, tmm5",
                "tileloadd tmm6, [{panel} + {group_bytes} * 1 + 128]",
                "tdpbusd tmm2, tmm3, tmm6",
                "add {rows}, 64",
                "add {panel}, 16 * 192",
                "sub {left}, 64",
                "jnz 2b",
                "tilestored [{sums} + {group_bytes} * 1], tmm0",
                "tilestored [{sums} + {group_bytes} * 1 + 64], tmm1",
                "tilestored [{sums} + {group_bytes} * 1 + 128], tmm2",
                rows = inout(reg) rows => _,
                row_bytes = in(reg) depth,
                panel = inout(reg) panel => _,
                group_bytes = in(reg) WIDTH * GROUP,
                left = inout(reg) depth => _,
                sums = in(reg) sums,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// Where there is no AMX.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod absent {
    use super::Amx;

    pub(crate) enum Tiles {}

    impl Tiles {
        pub(crate) fn configure() -> Self {
            panic!("there are no tiles")
        }

        pub(crate) fn multiply(&self, _: &[u8], _: usize, _: &[i8], _: &mut [i32]) {
            match *self {}
        }
    }

    pub(crate) fn amx() -> Amx {
        Amx::Absent
    }
}
