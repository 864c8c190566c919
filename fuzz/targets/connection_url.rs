//! A connection URL: what is shown of it has no secret, and connects to the same place.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oneiric_otel::store::fuzzing::for_the_driver;
use tokio_postgres::Config;

#[allow(dead_code, reason = "a module of the library, whole")]
#[path = "../../crates/oneiric-otel/src/settings/connection_url.rs"]
mod connection_url;

fuzz_target!(|url: &str| {
    // The driver decides what is a URL, and what in it is the password.
    let is_url = url.starts_with("postgres://") || url.starts_with("postgresql://");
    let config = if is_url { url.parse::<Config>().ok() } else { None };
    if let (Some(config), Some(rest)) = (&config, for_the_driver(url)) {
        let mut rest = rest.parse::<Config>().expect("what is left of a URL is a URL");
        rest.ssl_mode(config.get_ssl_mode());
        assert_eq!(rest, *config, "what says nothing about TLS was changed");
    }
    let shown = connection_url::show(url);
    let Some(public) = connection_url::split_password(url) else {
        assert_eq!(shown, "(hidden)");
        return;
    };
    assert_eq!(shown, public.url);
    let Some(config) = config else { return };
    let expected = config.get_password().unwrap_or_default();
    assert_eq!(String::from_utf8_lossy(expected), public.password.unwrap_or_default(), "the password");
    let without = public.url.parse::<Config>().expect("what is shown is a URL");
    assert_eq!(without.get_password(), None, "a password is shown");
    let mut again = without.clone();
    if let Some(password) = config.get_password() {
        again.password(password);
    }
    assert_eq!(again, config, "what is shown connects to another place");
});
