//! Which instructions of the processor the int8 arithmetic uses.

use pulp::Arch;

use crate::int8::{Amx, amx};

/// Instructions that the int8 arithmetic can work with. All give the same bits; they differ in speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    /// AMX: Intel's servers from 2023 on, where Linux lets a process use it.
    Amx,
    /// AVX-512 with VNNI: servers from 2019 on, and AMD from Zen 4 on.
    Avx512Vnni,
    /// AVX-VNNI, the same at half the width: Intel's desktops from 2021 on.
    AvxVnni,
    /// AVX2 with FMA: nearly every other x86-64 processor since 2015.
    Avx2,
    /// What every processor has.
    Portable,
}

impl Instructions {
    /// All of them, the fastest first.
    pub const ALL: [Self; 5] = [Self::Amx, Self::Avx512Vnni, Self::AvxVnni, Self::Avx2, Self::Portable];

    /// The fastest that this processor has.
    pub fn detect() -> Self {
        Self::ALL.into_iter().find(|instructions| instructions.is_available()).unwrap_or(Self::Portable)
    }

    /// Whether this processor has them, and this process may use them. Linux is asked for AMX once, when this is first called.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        match self {
            Self::Amx => amx() == Amx::Granted,
            Self::Avx512Vnni => has!("avx512f") && has!("avx512vnni"),
            Self::AvxVnni => has!("avx2") && has!("avxvnni"),
            Self::Avx2 => has!("avx2"),
            Self::Portable => true,
        }
    }

    /// Whether this processor has them.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        self == Self::Portable
    }

    /// Those that the processor has and the operating system does not let this process use, or does not know.
    pub fn refused() -> Option<Self> {
        (amx() == Amx::Refused).then_some(Self::Amx)
    }

    /// Their name, for a person.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amx => "AMX",
            Self::Avx512Vnni => "AVX-512 VNNI",
            Self::AvxVnni => "AVX-VNNI",
            Self::Avx2 => "AVX2",
            Self::Portable => "portable",
        }
    }

    /// What the loops beside the matrix products are compiled for: the same level, if these instructions are not the fastest
    /// here.
    pub(crate) fn arch(self) -> Arch {
        if self == Self::detect() {
            return Arch::new();
        }
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Amx | Self::Avx512Vnni => {}
            Self::AvxVnni | Self::Avx2 => {
                if let Some(v3) = pulp::x86::V3::try_new() {
                    return Arch::V3(v3);
                }
            }
            Self::Portable => return Arch::Scalar,
        }
        Arch::new()
    }
}
