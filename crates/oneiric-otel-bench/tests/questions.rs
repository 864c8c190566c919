//! A small run of the benchmark of questions: everything that is generated is stored, and every kind of question has
//! answers. Otherwise a figure would be about nothing.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use oneiric_otel::embed::{Embedder, LocalModel};
use oneiric_otel::query::QueryService;
use oneiric_otel::store::Database;
use oneiric_otel_bench::fill::{self, Watcher};
use oneiric_otel_bench::generate::{Generator, Scenario};
use oneiric_otel_bench::questions::{self, Rounds};
use oneiric_otel_embed::{MiniLm, Precision};
use oneiric_otel_parts::{Parts, Silent};
use oneiric_otel_testkit::TestDatabase;

struct Nobody;

impl Watcher for Nobody {
    fn step(&self, _: &str, _: Option<u64>) {}
    fn done(&self, _: u64) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_generated_is_stored_and_every_question_has_answers() {
    let test = TestDatabase::create().await;
    let database = Database::new(test.url()).unwrap();
    database.migrate().await.unwrap();
    let model: Arc<dyn Embedder> = Arc::new(LocalModel::new(
        MiniLm::load(&Parts::open_default().unwrap().minilm(&Silent).unwrap(), Precision::Int8).unwrap(),
    ));
    let length = Duration::from_hours(3);
    let start = Timestamp::now().as_second().unsigned_abs() - length.as_secs();
    let scenario = Scenario { seed: 3, traces: 600, start_unix_nanos: start * 1_000_000_000, length };
    let generator = Arc::new(Generator::new(scenario));

    let filled = fill::fill(&database, Arc::clone(&model), Arc::clone(&generator), &Nobody).await.unwrap();
    assert_eq!(test.count("SELECT count(*) FROM otel_traces").await, 600);
    assert_eq!(test.count("SELECT count(*) FROM otel_spans").await, i64::try_from(filled.spans).unwrap());
    assert_eq!(test.count("SELECT count(*) FROM otel_logs").await, i64::try_from(filled.log_records).unwrap());
    assert_eq!(test.count("SELECT count(*) FROM otel_metrics").await, i64::try_from(filled.data_points).unwrap());
    assert!(test.count("SELECT count(*) FROM otel_traces WHERE status = 'error'").await > 0);
    let again = fill::fill(&database, Arc::clone(&model), Arc::clone(&generator), &Nobody).await.unwrap();
    assert_eq!((again.traces, again.texts), (0, 0), "what is there already is not stored and derived again");
    assert_eq!(test.count("SELECT count(*) FROM otel_spans").await, i64::try_from(filled.spans).unwrap());

    let service = QueryService::new(database, Some(model));
    let rounds = Rounds { questions: 12, repeats: 1, seed: 1 };
    for class in questions::measure(&service, &generator, rounds, &Nobody).await.unwrap() {
        assert!(class.answers > 0.0, "no answers to: {}", class.class);
    }
}
