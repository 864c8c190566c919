//! Tokens and TLS from the command line.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use oneiric_otel_testkit::TestDatabase;
use oneiric_otel_testkit::certificates::{Authority, Purpose};
use tokio::time::timeout;

use crate::cli::{PATIENCE, Serving, run, run_with_variable, text};

const FIRST: &str = "the-first-token-of-all";
const SECOND: &str = "the-second-token-of-all";

fn write_secret(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The status of an empty request with a token.
async fn post(address: String, token: &'static str) -> String {
    let exchange = move || {
        let mut stream = TcpStream::connect(&address).unwrap();
        let head = format!(
            "POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
             Authorization: Bearer {token}\r\nConnection: close\r\n\r\n{{}}"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    tokio::task::spawn_blocking(exchange).await.unwrap()
}

#[tokio::test]
async fn sighup_puts_new_tokens_in_force_and_keeps_the_old_ones_otherwise() {
    let database = TestDatabase::create().await;
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    write_secret(&tokens, FIRST);
    let serving = Serving::start(&["--token-file", text(&tokens), "--database-url", database.url()]).await;
    let http = serving.address("http_addr");
    assert_eq!(post(http.clone(), FIRST).await, "200");
    assert_eq!(post(http.clone(), SECOND).await, "401");

    // The server lives on with what it had, and reads again when it is told again.
    write_secret(&tokens, "short");
    serving.hang_up().await;
    write_secret(&tokens, SECOND);
    let in_force = async {
        while post(http.clone(), SECOND).await != "200" {
            serving.hang_up().await;
        }
    };
    timeout(PATIENCE, in_force).await.unwrap();
    assert_eq!(post(http.clone(), FIRST).await, "401");
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
}

#[tokio::test]
async fn what_guards_the_server_must_be_as_it_should() {
    let database = TestDatabase::create().await;
    let authority = Authority::new().unwrap();
    let one = authority.issue("one", Purpose::Server, &["localhost"]).unwrap();
    let other = authority.issue("other", Purpose::Server, &["localhost"]).unwrap();
    let open = authority.path("open");
    std::fs::write(&open, FIRST).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let free = ["--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--api-addr=127.0.0.1:0"];
    let serve = |arguments: &[&'static str]| [&["serve", "--database-url", database.url()], arguments, &free].concat();
    let cases: [(Vec<&str>, i32, &[&str]); 6] = [
        (vec!["--tls-cert", text(&one.certificate)], 2, &["--tls-key"]),
        (vec!["--tls-client-ca", text(&one.certificate)], 2, &["--tls-cert"]),
        (vec!["--tls-cert", "/no/such/file", "--tls-key", text(&one.key)], 1, &["/no/such/file", "hint: --tls-cert"]),
        (vec!["--tls-cert", text(&one.certificate), "--tls-key", text(&other.key)], 1, &["not the key", "other.key"]),
        (vec!["--token-file", text(&open)], 1, &["mode is 644", "chmod 600"]),
        (vec!["--max-request-bytes=1000000000"], 2, &["max_in_flight_bytes", "3000000000"]),
    ];
    for (arguments, code, expected) in cases {
        let line = [&serve(&[])[..], &arguments].concat();
        let ended = run(&line).await.expect(code);
        for part in expected {
            assert!(ended.stderr.contains(part), "{arguments:?}: {}", ended.stderr);
        }
    }
    let variable = "OTEL_STORAGE_TOKENS";
    let ended = run_with_variable(&serve(&[]), variable, "short-secret").await.expect(1);
    assert!(ended.stderr.contains(variable) && ended.stderr.contains("at least 16"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("short-secret"), "{}", ended.stderr);
    let ended = run_with_variable(&serve(&["--token-file", "tokens"]), variable, FIRST).await.expect(2);
    assert!(ended.stderr.contains("given twice") && ended.stderr.contains("token_file"), "{}", ended.stderr);
    assert!(!ended.stderr.contains(FIRST), "{}", ended.stderr);
}
