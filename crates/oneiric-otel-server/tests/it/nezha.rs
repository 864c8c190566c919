//! A real microservice system's telemetry over gRPC: every record once, however often it is sent.

use oneiric_otel_testkit::data::shared_data_for;
use oneiric_otel_testkit::{nezha, send};

use crate::serving::Serving;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nezha_is_stored_exactly_and_sending_it_again_adds_nothing() {
    let test = "nezha_is_stored_exactly_and_sending_it_again_adds_nothing";
    let Some(folder) = shared_data_for(test, nezha::FOLDER) else { return };
    let server = Serving::start().await;
    let endpoint = format!("http://{}", server.grpc);
    for delivery in 1..=2 {
        let spans = send::send_grpc(&endpoint, send::Signal::Traces, nezha::traces(&folder), 4).await.unwrap();
        let logs = send::send_grpc(&endpoint, send::Signal::Logs, nezha::logs(&folder), 4).await.unwrap();
        assert_eq!((spans.rejected, logs.rejected), (0, 0));
        assert_eq!(server.count("otel_spans").await, nezha::SPANS as i64, "delivery {delivery}");
        assert_eq!(server.count("otel_logs").await, nezha::LOG_ROWS as i64, "delivery {delivery}");
    }
    let traces = "(select distinct trace_id from otel_spans) traces";
    assert_eq!(server.count(traces).await, nezha::TRACES as i64);
    assert_eq!(server.count("otel_telemetry_dlq").await, 0);
}
