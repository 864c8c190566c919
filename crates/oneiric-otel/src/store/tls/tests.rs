//! What a URL says about TLS. Connections are tested from outside, in `tests/it/tls.rs`.

use std::os::unix::fs::PermissionsExt as _;

use oneiric_otel_testkit::certificates::{Authority, Purpose};

use super::*;

fn config_error(parameters: &Parameters) -> String {
    client_config(parameters).map(|(mode, _)| mode).expect_err("the parameters are wrong").to_string()
}

#[test]
fn the_parameters_are_taken_out_and_the_rest_is_left() {
    let some = |text: &str| Some(text.to_owned());
    let cases = [
        ("postgresql://h/d", "postgresql://h/d", Parameters::default()),
        (
            "postgresql://u:p%3F@h:1/d?a=b&sslmode=verify-full&sslrootcert=%2Fmy%20ca.pem&c=%26",
            "postgresql://u:p%3F@h:1/d?a=b&c=%26",
            Parameters { mode: some("verify-full"), root_cert: some("/my ca.pem"), ..Parameters::default() },
        ),
        // As for the driver, a password may have a question mark, and a key may be encoded.
        (
            "postgres://u:p?sslmode=x@h/d?ssl%6Dode=require&sslcert=c%2B&sslkey=k+",
            "postgres://u:p?sslmode=x@h/d",
            Parameters { mode: some("require"), cert: some("c+"), key: some("k+"), root_cert: None },
        ),
        // The last one counts, and an empty one says nothing.
        (
            "postgresql://h/d?sslmode=require&sslmode=disable&sslrootcert=",
            "postgresql://h/d",
            Parameters { mode: some("disable"), ..Parameters::default() },
        ),
    ];
    for (url, rest, expected) in cases {
        assert_eq!(take_parameters(url).expect(url), (rest.to_owned(), expected), "{url}");
    }
    let text = take_parameters("postgresql://h/d?sslrootcert=%ff").expect_err("no UTF-8").to_string();
    assert!(text.contains("sslrootcert"), "{text}");
}

#[test]
fn modes_are_those_of_libpq() {
    let mode = |mode: &str, root_cert: Option<&str>| {
        let mode = Some(mode.to_owned()).filter(|mode| !mode.is_empty());
        let parameters = Parameters { mode, root_cert: root_cert.map(str::to_owned), ..Parameters::default() };
        client_config(&parameters).map(|(mode, _)| mode).map_err(|error| error.to_string())
    };
    assert_eq!(mode("", None), Ok(Mode::Prefer));
    assert_eq!(mode("", Some("system")), Ok(Mode::VerifyFull));
    assert_eq!(mode("disable", Some("/nowhere")), Ok(Mode::Disable), "nothing is read that is not used");
    for (name, root_cert, expected) in [
        ("verify_full", None, "expected disable, allow, prefer, require, verify-ca or verify-full"),
        ("verify-ca", None, "need sslrootcert"),
        ("verify-ca", Some("system"), "sslrootcert=system needs sslmode=verify-full"),
        ("require", Some("/no/such/file"), "sslrootcert: /no/such/file: No such file"),
    ] {
        let text = mode(name, root_cert).expect_err(name);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new().expect("a directory");
    let [one, other] = ["one", "other"].map(|name| authority.issue(name, Purpose::Client, &[]).expect("a certificate"));
    let path = |path: &Path| Some(path.display().to_string());
    let with = |cert: Option<String>, key: Option<String>| {
        config_error(&Parameters { mode: Some("require".to_owned()), cert, key, root_cert: None })
    };
    assert!(with(path(&one.certificate), None).contains("sslcert needs sslkey"));
    assert!(with(None, path(&one.key)).contains("sslkey needs sslcert"));
    let text = with(path(&one.key), path(&one.key));
    assert!(text.contains("sslcert: ") && text.contains("no certificate in PEM"), "{text}");
    let text = with(path(&one.certificate), path(&one.certificate));
    assert!(text.contains("sslkey: ") && text.contains("no unencrypted private key"), "{text}");
    let text = with(path(&one.certificate), path(&other.key));
    assert!(text.contains("cannot be used with the certificate") && text.contains("other.key"), "{text}");

    std::fs::set_permissions(&one.key, std::fs::Permissions::from_mode(0o644)).expect("our own file");
    let text = with(path(&one.certificate), path(&one.key));
    assert!(text.contains("mode 644") && text.contains("chmod 600"), "{text}");
}

#[test]
fn a_star_is_one_label() {
    assert!(covers("db.example.com", "DB.example.com"));
    assert!(covers("*.example.com", "db.example.com"));
    for (common, host) in [
        ("*.example.com", "a.b.example.com"),
        ("*.example.com", ".example.com"),
        ("*.example.com", "example.com"),
        ("*example.com", "xexample.com"),
        ("*", "db"),
        ("db", "db2"),
    ] {
        assert!(!covers(common, host), "{common} {host}");
    }
}
