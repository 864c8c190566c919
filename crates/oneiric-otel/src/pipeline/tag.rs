//! What the spool keeps beside the bytes of a request.

use super::report::Rejections;
use crate::otlp::Encoding;

/// Two bytes that the spool does not look into. The meaning of a bit never changes: old spools stay readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) encoding: Encoding,
    /// How many records were rejected, up to [`MOST_REJECTED`]. Where none was, limits that were lowered since do not
    /// apply; and never may more be rejected than the sender was told.
    pub(crate) rejected: u16,
    /// It carries telemetry of ours: no span is made for writing it.
    pub(crate) own: bool,
}

const JSON: u16 = 1;
const OWN: u16 = 4;
/// The bits from here on are the number of rejected records. Those between are free.
const REJECTED_AT: u32 = 4;
const MOST_REJECTED: u16 = u16::MAX >> REJECTED_AT;

impl Tag {
    pub(crate) fn bits(self) -> u16 {
        let encoding = match self.encoding {
            Encoding::Protobuf => 0,
            Encoding::Json => JSON,
        };
        encoding | if self.own { OWN } else { 0 } | self.rejected.min(MOST_REJECTED) << REJECTED_AT
    }

    /// What [`Self::rejected`] is for these.
    pub(crate) fn count(rejections: &Rejections) -> u16 {
        u16::try_from(rejections.records()).unwrap_or(u16::MAX).min(MOST_REJECTED)
    }

    pub(crate) fn from_bits(bits: u16) -> Self {
        let encoding = if bits & JSON == 0 { Encoding::Protobuf } else { Encoding::Json };
        Self { encoding, rejected: bits >> REJECTED_AT, own: bits & OWN != 0 }
    }
}
