//! What the spool keeps beside the bytes of a request.

use crate::otlp::Encoding;

/// Two bytes that the spool does not look into. The meaning of a bit never changes: old spools stay readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) encoding: Encoding,
    /// Nothing of the request was rejected. Limits that were lowered since do not apply to it.
    pub(super) whole: bool,
}

const JSON: u16 = 1;
const WHOLE: u16 = 2;

impl Tag {
    pub(super) fn bits(self) -> u16 {
        let encoding = match self.encoding {
            Encoding::Protobuf => 0,
            Encoding::Json => JSON,
        };
        encoding | if self.whole { WHOLE } else { 0 }
    }

    pub(super) fn from_bits(bits: u16) -> Self {
        let encoding = if bits & JSON == 0 { Encoding::Protobuf } else { Encoding::Json };
        Self { encoding, whole: bits & WHOLE != 0 }
    }
}
