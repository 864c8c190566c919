//! Settings in a file: TOML or YAML. Messages tell a place in the file and never repeat what stands there.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::exposure::exposure;
use super::load::Content;
use super::raw::Raw;

/// Larger files hold something else.
const MAX_BYTES: u64 = 1 << 20;

/// What the file says, and whether secrets may stand in it.
pub(super) fn read(path: &Path) -> Result<Content, String> {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    let parse = match extension.as_deref() {
        Some("toml") => of_toml,
        Some("yaml" | "yml") => of_yaml,
        _ => return Err("expected a name that ends in .toml, .yaml or .yml".to_owned()),
    };
    let file = File::open(path).map_err(|error| error.to_string())?;
    let about = file.metadata().map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("expected at most {MAX_BYTES} bytes"));
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| format!("byte {}: expected UTF-8", error.utf8_error().valid_up_to()))?;
    let mut entries = Vec::new();
    match parse(&text)? {
        Raw::Table(table) => flatten("", table, &mut entries),
        // An empty file of YAML.
        Raw::Nothing => {}
        _ => return Err("expected names of settings with their values, such as `ack: stored`".to_owned()),
    }
    Ok(Content { entries, exposure: exposure(&about, path) })
}

fn of_toml(text: &str) -> Result<Raw, String> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        // The message is a fixed one; only what Display adds shows the line itself.
        format!("line {line}: expected TOML: {}", error.message())
    })
}

fn of_yaml(text: &str) -> Result<Raw, String> {
    serde_saphyr::from_str(text).map_err(|error| {
        let place = error.location().map(|at| format!("line {}, column {}: ", at.line(), at.column()));
        let place = place.unwrap_or_default();
        match error.without_snippet() {
            serde_saphyr::Error::DuplicateMappingKey { .. } => format!("{place}the same name a second time"),
            _ => format!("{place}expected YAML"),
        }
    })
}

fn flatten(prefix: &str, entries: Vec<(String, Raw)>, into: &mut Vec<(String, Raw)>) {
    for (name, value) in entries {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Raw::Table(entries) if !entries.is_empty() => flatten(&key, entries, into),
            value => into.push((key, value)),
        }
    }
}
