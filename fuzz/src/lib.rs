//! What the fuzz targets of oneiric-otel check.
//!
//! A target is one line that hands its input to a function here, which panics when a promise is broken. Every function
//! also watches the memory that its input costs: see [`memory`].

pub mod bodies;
pub mod files;
pub mod memory;
pub mod otlp;
pub mod segments;
pub mod stored;
pub mod texts;
