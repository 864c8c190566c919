//! The demo's simulated system as it runs: services with SDKs of their own. What happens in it stands beside the
//! measurements, which use it too.

pub(crate) mod system;
