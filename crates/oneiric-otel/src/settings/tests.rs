use std::ffi::OsString;

use super::*;

const PREFIX: &str = "MAHAVISHNU_OTEL_STORAGE__";

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, OsString)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect()
}

fn of_variables(prefix: &str, pairs: &[(&str, &str)]) -> Result<Resolved, SettingsError> {
    Loader::new().variables(prefix, variables(pairs)).finish()
}

fn refusal(pairs: &[(&str, &str)]) -> String {
    of_variables(ENV_PREFIX, pairs).expect_err("these are refused").to_string()
}

#[test]
fn every_default_is_accepted_and_every_setting_is_told_of() {
    Settings::default().check().expect("defaults go together");
    let resolved = Resolved::default();
    let shown = resolved.show();
    assert_eq!(shown.len(), Settings::table().count());
    for setting in Settings::table() {
        assert!(setting.doc.len() > 10 && !setting.doc.ends_with('.'), "{}: {:?}", setting.name, setting.doc);
        assert!(!setting.accepts.to_string().is_empty());
        let value = resolved.settings.show(setting.name).expect(setting.name);
        assert!(value != Shown::Unset || setting.unset.is_some(), "{}: what holds if it is not set?", setting.name);
        assert!(!(setting.is_secret && setting.flag.is_some()), "{}: a secret has no flag", setting.name);
    }
    assert_eq!(resolved.settings.show("nonsense"), None);
}

#[test]
fn defaults_are_those_of_the_parts_that_they_set() {
    use crate::embed::EmbedOptions;
    use crate::pipeline::{Ack, IngestOptions};
    use crate::query::QueryOptions;

    let settings = Settings::default();
    let (ours, theirs) = (settings.ingest_options(Ack::Stored), IngestOptions::default());
    assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    assert_eq!(settings.query_options(), QueryOptions::default());
    assert_eq!(format!("{:?}", settings.embed_options()), format!("{:?}", EmbedOptions::default()));
    let options = crate::manager::ManagerOptions::from_settings(&settings).expect("defaults go together");
    let (ours, theirs) = (options, crate::manager::ManagerOptions::default());
    assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    let application = ApplicationSettings::default();
    let (ours, theirs) = (&ours.storage, &theirs.storage);
    assert_eq!((application.threads, application.queue_max_bytes), (theirs.threads, theirs.queue_max_bytes));
    assert_eq!((ours.store_timeout, ours.cleanup_timeout), (theirs.store_timeout, theirs.cleanup_timeout));
    assert_eq!((ours.spool_max_bytes, ours.min_free_bytes), (theirs.spool_max_bytes, theirs.min_free_bytes));
    assert_eq!((ours.memory_calls, ours.remember_requests), (theirs.memory_calls, theirs.remember_requests));
    assert!(settings.database().expect("nothing to understand").is_none());
}

#[test]
fn settings_become_options() {
    use std::time::Duration;

    use crate::otlp::Signal;
    use crate::pipeline::Ack;

    let settings = of_variables(
        PREFIX,
        &[
            ("MAHAVISHNU_OTEL_STORAGE__BATCH_SIZE", "10"),
            ("MAHAVISHNU_OTEL_STORAGE__BATCH_INTERVAL_SECONDS", "0.5"),
            ("MAHAVISHNU_OTEL_STORAGE__MAX_RETRIES", "0"),
            ("MAHAVISHNU_OTEL_STORAGE__RETRY_BACKOFF_MS", "0"),
            ("MAHAVISHNU_OTEL_STORAGE__CIRCUIT_BREAKER_THRESHOLD", "7"),
            ("MAHAVISHNU_OTEL_STORAGE__CIRCUIT_BREAKER_TIMEOUT_SECONDS", "10"),
            ("MAHAVISHNU_OTEL_STORAGE__STORE_LOGS", "off"),
            ("MAHAVISHNU_OTEL_STORAGE__LIMITS__MAX_ATTRIBUTES", "3"),
            ("MAHAVISHNU_OTEL_STORAGE__LIMITS__MAX_METRIC_SERIES", "20000000"),
            ("MAHAVISHNU_OTEL_STORAGE__VECTOR_INDEX", "none"),
            ("MAHAVISHNU_OTEL_STORAGE__SEARCH_FLOOR", "0.4"),
            ("MAHAVISHNU_OTEL_STORAGE__CACHE_SIZE", "100"),
            ("MAHAVISHNU_OTEL_STORAGE__SIMILARITY_THRESHOLD", "1"),
        ],
    );
    let settings = settings.expect("all are in range").settings;
    let options = settings.ingest_options(Ack::Stored);
    assert_eq!((options.batch_rows, options.max_retries, options.limits.attributes), (10, 0, 3));
    assert_eq!(options.max_metric_series, 20_000_000);
    assert_eq!((options.batch_interval, options.retry_backoff), (Duration::from_millis(500), Duration::ZERO));
    assert_eq!((options.breaker.threshold, options.breaker.open_for), (7, Duration::from_secs(10)));
    let stored = Signal::ALL.map(|signal| options.signals.has(signal));
    assert_eq!(stored, Signal::ALL.map(|signal| signal != Signal::Logs));
    assert_eq!(settings.embed_options().index, None);
    let questions = settings.query_options();
    assert_eq!(
        format!("{questions:?}"),
        "QueryOptions { similarity_threshold: 1.0, search_floor: 0.4, question_vectors: 100 }"
    );
}

#[test]
fn out_of_range_is_refused_with_source_key_range_and_what_was_found() {
    for (name, value, key, accepted) in [
        ("OTEL_STORAGE_BATCH_SIZE", "9", "batch_size", "a whole number from 10 to 100000"),
        ("OTEL_STORAGE_BATCH_SIZE", "100001", "batch_size", "a whole number from 10 to 100000"),
        ("OTEL_STORAGE_BATCH_SIZE", "-10", "batch_size", "a whole number from 10 to 100000"),
        ("OTEL_STORAGE_BATCH_SIZE", "+10", "batch_size", "a whole number from 10 to 100000"),
        ("OTEL_STORAGE_BATCH_SIZE", "10.5", "batch_size", "a whole number from 10 to 100000"),
        ("OTEL_STORAGE_BATCH_INTERVAL_SECONDS", "0", "batch_interval_seconds", "a number from 0.01 to 60"),
        ("OTEL_STORAGE_SIMILARITY_THRESHOLD", "NaN", "similarity_threshold", "a number from 0 to 1"),
        ("OTEL_STORAGE_SIMILARITY_THRESHOLD", "inf", "similarity_threshold", "a number from 0 to 1"),
        ("OTEL_STORAGE_SPOOL_MAX_BYTES", "1000", "spool_max_bytes", "a whole number from 268435456 up"),
        ("OTEL_STORAGE_ACK", "disk", "ack", "spooled, stored or memory"),
        ("OTEL_STORAGE_STORE_LOGS", "maybe", "store_logs", "true or false"),
        ("OTEL_STORAGE_LISTEN__GRPC_ADDR", "4317", "listen.grpc_addr", "HOST:PORT"),
        ("OTEL_STORAGE_LIMITS__MAX_ATTRIBUTES", "0", "limits.max_attributes", "a whole number from 1 to 1000000"),
        ("OTEL_STORAGE_LIMITS__MAX_METRIC_SERIES", "0", "limits.max_metric_series", "a whole number from 1 up"),
        ("OTEL_STORAGE_LIMITS__MAX_METRIC_SERIES", "1e7", "limits.max_metric_series", "a whole number from 1 up"),
        ("OTEL_STORAGE_EMBEDDING_DIMENSION", "0", "embedding_dimension", "a whole number from 1 to 16000"),
        ("OTEL_STORAGE_EMBEDDING_ENDPOINT__URL", "h:80", "embedding_endpoint.url", "a URL such as http://"),
        ("OTEL_STORAGE_STORAGE_BACKEND", "jaeger", "storage_backend", "otlp, postgresql or both"),
        ("OTEL_STORAGE_CACHE_SIZE", "99", "cache_size", "a whole number from 100 to 10000"),
        ("OTEL_STORAGE_VECTOR_INDEX", "flat", "vector_index", "hnsw, ivfflat or none"),
        ("OTEL_STORAGE_OTLP__MAX_BYTES", "5", "otlp.max_bytes", "a whole number from 134217728 up"),
        ("OTEL_STORAGE_OTLP__PROTOCOL", "thrift", "otlp.protocol", "http/protobuf or grpc"),
        ("OTEL_STORAGE_APPLICATION__THREADS", "65", "application.threads", "a whole number from 1 to 64"),
        (
            "OTEL_STORAGE_APPLICATION__METRIC_LABEL_SETS",
            "1",
            "application.metric_label_sets",
            "a whole number from 2 to 1000000",
        ),
        ("OTEL_STORAGE_CORS_ORIGINS", "https://a.example,b", "cors_origins", "origins such as https://"),
    ] {
        let message = refusal(&[(name, value)]);
        let found = format!("found {value:?}");
        for part in [&format!("environment variable {name}: {key}: expected "), accepted, &found] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}

#[test]
fn unknown_names_are_refused_with_the_nearest() {
    for (name, near) in [
        ("OTEL_STORAGE_SPOL_MAX_BYTES", "spool_max_bytes"),
        ("OTEL_STORAGE_DATABASE_URL", "connection_string"),
        ("OTEL_STORAGE_LIMITS__MAX_ATTRIBUTS", "limits.max_attributes"),
        ("OTEL_STORAGE_GRPC_ADDR", "listen.grpc_addr"),
        ("OTEL_STORAGE_CIRCUIT_BREAKER", "circuit_breaker_t"),
        ("OTEL_STORAGE_ack", "ack"),
    ] {
        let message = refusal(&[(name, "1")]);
        assert!(message.contains(name) && message.contains(&format!("the nearest one is {near}")), "{message}");
    }
    let message = refusal(&[("OTEL_STORAGE_XYZZY", "1")]);
    assert_eq!(message, "environment variable OTEL_STORAGE_XYZZY: there is no setting \"xyzzy\"");
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let error = of_variables(ENV_PREFIX, &[("OTEL_STORAGE_ACK", "x"), ("OTEL_STORAGE_BATCH_SIZE", "x")]);
    assert_eq!(error.expect_err("both are wrong").problems().len(), 2);
}

#[test]
fn nothing_says_nothing_but_of_a_secret() {
    let resolved = of_variables(ENV_PREFIX, &[("OTEL_STORAGE_CONNECTION_STRING", ""), ("OTEL_STORAGE_ACK", "")]);
    let resolved = resolved.expect("nothing is said");
    assert_eq!((&resolved.settings, resolved.origin("ack")), (&Settings::default(), &Source::Default));
    let message = refusal(&[("OTEL_STORAGE_TOKENS", "")]);
    assert!(message.contains("tokens: expected tokens"), "{message}");
}

#[test]
fn prefixes_that_cannot_be_or_are_a_slip_are_refused() {
    for prefix in ["", "_", "OTEL", "otel_storage_", "A B_", "__"] {
        let error = of_variables(prefix, &[]).expect_err(prefix).to_string();
        assert!(error.contains("capitals") && error.contains(&format!("{prefix:?}")), "{error}");
    }
    // Nothing has it: then all is as by default.
    let others = [("PATH", "/bin"), ("OTEL_STORAGE_ACK", "stored"), ("HOME", "/root"), ("MY_DATA_DIR", "/x")];
    assert_eq!(of_variables(PREFIX, &others).expect("nobody meant it").settings, Settings::default());
    for meant in ["MAHAVISHNU_OTEL_STORAGE_BATCH_SIZE", "MAHAVISNU_OTEL_STORAGE__ACK", "MAHAVISHNU_OTEL__ACK"] {
        let outcome = of_variables(PREFIX, &[(meant, "s3cr3t")]);
        if meant == "MAHAVISHNU_OTEL__ACK" {
            outcome.expect("another prefix altogether");
            continue;
        }
        let error = outcome.expect_err(meant).to_string();
        assert!(error.contains(PREFIX) && error.contains(meant) && !error.contains("s3cr3t"), "{error}");
    }
}

#[test]
fn later_sources_win_and_are_named() {
    let loader = Loader::new().variables(
        ENV_PREFIX,
        variables(&[("OTEL_STORAGE_ACK", "stored"), ("OTEL_STORAGE_BATCH_SIZE", "20"), ("OTEL_STORAGE_CONFIG", "x")]),
    );
    let resolved = loader.flag("ack", "memory", "--ack").finish().expect("all are accepted");
    assert_eq!((resolved.settings.ack, resolved.settings.batch_size), (Acknowledge::Memory, 20));
    assert_eq!(*resolved.origin("ack"), Source::Flag("--ack".to_owned()));
    assert_eq!(resolved.origin("batch_size").to_string(), "environment variable OTEL_STORAGE_BATCH_SIZE");
    assert_eq!(resolved.origin("max_retries").to_string(), "default");
}

#[test]
fn secrets_are_nowhere_to_be_seen() {
    let resolved = of_variables(
        ENV_PREFIX,
        &[
            ("OTEL_STORAGE_CONNECTION_STRING", "postgresql://u:s3cr3t@h/d?a=b"),
            ("OTEL_STORAGE_READER_URL", "postgresql://u:s3cr@3t@h/d"),
            ("OTEL_STORAGE_TOKENS", "s3cr3t-s3cr3t-s3cr3t"),
            ("OTEL_STORAGE_FORWARD_OTLP", "http://h:4318"),
            ("OTEL_STORAGE_FORWARD_HEADERS", "authorization=s3cr3t"),
            ("OTEL_STORAGE_STORAGE_BACKEND", "both"),
            ("OTEL_STORAGE_OTLP__ENDPOINT", "http://h:4318"),
            ("OTEL_STORAGE_OTLP__HEADERS", "authorization=s3cr3t"),
        ],
    );
    let resolved = resolved.expect("all are accepted");
    let shown = resolved.show();
    for text in [format!("{resolved:?}"), format!("{shown:?}"), serde_json::to_string(&shown).expect("JSON")] {
        assert!(!text.contains("s3cr"), "{text}");
        assert!(text.contains("postgresql://u@h/d?a=b"), "{text}");
    }
    assert_eq!(resolved.settings.show("reader_url").expect("a setting").to_string(), "(hidden)");
    assert_eq!(resolved.settings.show("tokens"), Some(Shown::Hidden));

    for (name, value) in [
        ("OTEL_STORAGE_CONNECTION_STRING", "mysql://root:s3cr3t@h/d"),
        ("OTEL_STORAGE_SQL_READER_URL", "s3cr3t"),
        ("OTEL_STORAGE_TOKENSS", "s3cr3t"),
    ] {
        let message = refusal(&[(name, value)]);
        assert!(!message.contains("s3cr3t"), "{message}");
    }
    // Where a password is none of a URL's, its place is said, and not what it is.
    for (name, key) in [
        ("OTEL_STORAGE_FORWARD_OTLP", "forward_otlp"),
        ("OTEL_STORAGE_OTLP__ENDPOINT", "otlp.endpoint"),
        ("OTEL_STORAGE_EMBEDDING_ENDPOINT__URL", "embedding_endpoint.url"),
        ("OTEL_STORAGE_ACK", "ack"),
    ] {
        for (url, found) in [
            ("http://u:s3cr3t@h:4318", "found \"http://u@h:4318\""),
            ("http://u:s3@cr3t@h", "found \"(hidden)\""),
            ("u:s3cr3t@h", "found \"(hidden)\""),
        ] {
            let message = refusal(&[(name, url)]);
            assert!(message.contains(&format!("{key}: expected ")) && message.contains(found), "{message}");
            assert!(!message.contains("cr3t"), "{message}");
        }
    }
    let error = Loader::new().flag("tokens", "s3cr3t", "--set").finish().expect_err("others could read it");
    assert!(error.to_string().contains("command line --set: tokens: expected a variable or a file"), "{error}");
    assert!(!error.to_string().contains("s3cr3t"));
    let password = "postgresql://u:s3cr3t@h/d";
    for (name, flag, variable) in [
        ("connection_string", "--database-url", "OTEL_STORAGE_CONNECTION_STRING"),
        ("reader_url", "--reader-url", "OTEL_STORAGE_READER_URL"),
    ] {
        let error = Loader::new().flag(name, password, "--set").finish().expect_err("others could read it").to_string();
        assert!(error.contains(flag) && error.contains(variable) && !error.contains("s3cr3t"), "{error}");
    }
    for (url, flag) in [(password, "--database-url"), ("postgresql://u@h/d", "--set")] {
        let resolved = Loader::new().flag("connection_string", url, flag).finish().expect("nobody can read a password");
        assert_eq!(resolved.settings.connection_string, Some(DatabaseUrl::new(url)));
    }
    let settings = Settings { connection_string: Some(DatabaseUrl::new("s3cr3t")), ..Settings::default() };
    let error = settings.check().expect_err("that is no URL").to_string();
    assert!(error.contains("connection_string: expected a URL") && !error.contains("s3cr3t"), "{error}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let url = || Some(DatabaseUrl::new("postgresql://u@h/d"));
    let otlp = || OtlpSettings {
        endpoint: Some("http://h:4318".to_owned()),
        headers: Some(Secret::new("a=b")),
        ..OtlpSettings::default()
    };
    let cases = [
        (Settings { reader_url: url(), ..Settings::default() }, "reader_url: there is no connection_string"),
        (Settings { maintenance_url: url(), ..Settings::default() }, "maintenance_url: there is no connection_string"),
        (Settings { sql_reader_url: url(), ..Settings::default() }, "sql_reader_url: there is no connection_string"),
        (Settings { tls_cert: Some("c".into()), ..Settings::default() }, "tls_cert: it needs tls_key"),
        (Settings { tls_key: Some("k".into()), ..Settings::default() }, "tls_key: it needs tls_cert"),
        (Settings { tls_client_ca: Some("k".into()), ..Settings::default() }, "tls_client_ca: it needs"),
        (
            Settings { token_file: Some("t".into()), tokens: Some(Secret::new("t")), ..Settings::default() },
            "tokens are given twice",
        ),
        (
            Settings {
                limits: LimitSettings { max_request_bytes: 100 << 20, ..LimitSettings::default() },
                ..Settings::default()
            },
            "at least three times limits.max_request_bytes, which is 314572800",
        ),
        (Settings { embedding_model: "other".to_owned(), ..Settings::default() }, "embedding_model: another than"),
        (Settings { embedding_dimension: Some(768), ..Settings::default() }, "all-MiniLM-L6-v2 has 384"),
        (
            Settings {
                embedding_precision: EmbeddingPrecision::F32,
                embedding_endpoint: EndpointSettings {
                    url: Some("http://localhost:8080".to_owned()),
                    ..EndpointSettings::default()
                },
                ..Settings::default()
            },
            "a precision of its own",
        ),
        (
            Settings {
                embedding_endpoint: EndpointSettings { api_key: Some(Secret::new("k")), ..EndpointSettings::default() },
                ..Settings::default()
            },
            "there is no embedding_endpoint.url",
        ),
        (
            Settings { storage_backend: StorageBackend::Both, ..Settings::default() },
            "otlp.endpoint: storage_backend is otlp or both",
        ),
        (Settings { otlp: otlp(), ..Settings::default() }, "otlp.endpoint: storage_backend is postgresql"),
        (
            Settings { otlp: OtlpSettings { endpoint: None, ..otlp() }, ..Settings::default() },
            "otlp.headers: it needs otlp.endpoint",
        ),
        (
            Settings { batch_size: 1, ..Settings::default() },
            "this program: batch_size: expected a whole number from 10",
        ),
    ];
    for (settings, expected) in cases {
        let error = settings.check().expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[cfg(feature = "settings-files")]
mod files {
    use std::path::PathBuf;

    use super::*;

    fn write(name: &str, text: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        set_mode(&path, 0o600);
        (dir, path)
    }

    fn set_mode(path: &PathBuf, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;

        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("our own file");
    }

    #[test]
    fn a_file_that_others_can_read_is_no_place_for_secrets() {
        let secrets = [
            ("connection_string", "connection_string: postgresql://u:s3cr3t@h/d"),
            ("tokens", "tokens: s3cr3t-s3cr3t-s3cr3t"),
            ("embedding_endpoint.api_key", "embedding_endpoint: {url: 'http://h', api_key: s3cr3t}"),
        ];
        for (name, text) in secrets {
            let (_dir, path) = write("a.yaml", text);
            for mode in [0o600, 0o400, 0o640] {
                set_mode(&path, mode);
                Settings::from_file(&path).expect("nobody else reads it");
            }
            for mode in [0o644, 0o604, 0o660, 0o602] {
                set_mode(&path, mode);
                let error = Settings::from_file(&path).expect_err("others read it").to_string();
                for part in [name, &format!("its mode is {mode:o}"), "chmod 600", "a.yaml"] {
                    assert!(error.contains(part) && !error.contains("s3cr3t"), "{part}: {error}");
                }
            }
        }
        let (_dir, path) = write("a.yaml", "connection_string: postgresql://u@h/d\nbatch_size: 20\n");
        set_mode(&path, 0o644);
        Settings::from_file(&path).expect("there is no secret in it");
    }

    fn load(name: &str, text: impl AsRef<[u8]>) -> Result<Settings, SettingsError> {
        let (_dir, path) = write(name, text);
        Settings::from_file(path)
    }

    #[test]
    fn toml_and_yaml_say_the_same() {
        let toml = "ack = \"stored\"\nbatch_size = 20\nstore_logs = false\nsimilarity_threshold = 1\n\
                    cors_origins = [\"https://a.example\", \"*\"]\n[limits]\nmax_attributes = 3\n";
        let yaml = "ack: stored\nbatch_size: 20\nstore_logs: false\nsimilarity_threshold: 1\nreader_url:\n\
                    cors_origins:\n- https://a.example\n- '*'\nlimits:\n  max_attributes: 3\n";
        let settings = load("a.toml", toml).expect("TOML");
        assert_eq!(settings, load("a.yaml", yaml).expect("YAML"));
        assert_eq!((settings.ack, settings.batch_size, settings.store_logs), (Acknowledge::Stored, 20, false));
        assert_eq!((settings.limits.max_attributes, settings.cors_origins.len()), (3, 2));
        assert_eq!(load("a.YML", "").expect("nothing said"), Settings::default());
        assert_eq!(load("a.toml", "").expect("nothing said"), Settings::default());
    }

    #[test]
    fn variables_win_over_a_file_that_they_may_name() {
        let (_dir, path) = write("a.yaml", "ack: stored\nbatch_size: 20\n");
        let resolved = Loader::new().file(&path).variables(PREFIX, variables(&[(&format!("{PREFIX}ACK"), "memory")]));
        let resolved = resolved.finish().expect("all are accepted");
        assert_eq!((resolved.settings.ack, resolved.settings.batch_size), (Acknowledge::Memory, 20));
        assert_eq!(*resolved.origin("batch_size"), Source::File(path));
    }

    #[test]
    fn wrong_files_are_refused_with_the_place_and_no_secret() {
        let cases: [(&str, &[u8], &[&str]); 17] = [
            ("a.json", b"{}", &[".toml, .yaml or .yml"]),
            ("settings", b"", &[".toml, .yaml or .yml"]),
            ("a.toml", b"ack = \"stored\"\nreader_url = s3cr3t", &["line 2: expected TOML"]),
            ("a.toml", b"ack = \"stored\"\nack = \"stored\"", &["line 2: expected TOML", "duplicate"]),
            ("a.toml", b"connection_string = \"s3cr3t", &["line 1: expected TOML"]),
            ("a.yaml", b"ack: stored\nx: [s3cr3t\ny: 1", &["line 3, column 2: expected YAML"]),
            ("a.yaml", b"tokens: *s3cr3t", &["line 1", "expected YAML"]),
            ("a.yaml", b"ack: stored\nack: memory", &["line 2", "a second time"]),
            ("a.yaml", b"s3cr3t", &["expected names of settings"]),
            ("a.yaml", b"- s3cr3t", &["expected names of settings"]),
            ("a.yaml", b"\xff\xfe", &["byte 0: expected UTF-8"]),
            ("a.yaml", b"\x7fELF\0\0\x01", &["expected YAML"]),
            ("a.yaml", b"bach_size: 5", &["\"bach_size\"", "the nearest one is batch_size"]),
            ("a.yaml", b"limits: {max_attribute: 5}", &["\"limits.max_attribute\"", "limits.max_attributes"]),
            ("a.yaml", b"batch_size: '20'", &["batch_size: expected a whole number", "found the text \"20\""]),
            ("a.toml", b"similarity_threshold = nan", &["expected a number from 0 to 1, found NaN"]),
            (
                "a.yaml",
                b"connection_string: {password: s3cr3t}\ntokens: [s3cr3t]",
                &["connection_string.password", "tokens"],
            ),
        ];
        for (name, text, expected) in cases {
            let message = load(name, text).expect_err("it is wrong").to_string();
            assert!(message.contains(name) && !message.contains("s3cr3t"), "{message}");
            for part in expected {
                assert!(message.contains(part), "{part}: {message}");
            }
        }
        let long = load("a.yaml", vec![b' '; (1 << 20) + 1]).expect_err("too long").to_string();
        assert!(long.contains("expected at most 1048576 bytes"), "{long}");
        let missing = Settings::from_file("/nonexistent/a.toml").expect_err("it is not there").to_string();
        assert!(missing.starts_with("file /nonexistent/a.toml: "), "{missing}");
    }

    #[test]
    fn aliases_that_multiply_do_not_fill_the_memory() {
        let first = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        let text = (1..12).fold(first, |text, level| {
            let previous = format!("*a{}", level - 1);
            format!("{text}a{level}: &a{level} [{}]\n", vec![previous; 10].join(", "))
        });
        assert!(load("a.yaml", text).expect_err("it is too much").to_string().contains("expected YAML"));
    }
}

#[test]
fn the_reference_page_is_up_to_date() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/settings.md");
    let written = std::fs::read_to_string(page).unwrap_or_default();
    assert!(
        written == reference(),
        "docs/settings.md: `oneiric-otel config reference > docs/settings.md` makes it anew"
    );
}
