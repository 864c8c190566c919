//! Against a real gRPC server on loopback, whose answers the test decides.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;

use super::*;
use crate::receiver::Receiver;

fn request(number: usize) -> ExportTraceServiceRequest {
    let resource_spans = ResourceSpans { schema_url: format!("schema {number}"), ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

fn requests(count: usize) -> Vec<Result<Bytes>> {
    (0..count).map(|number| Ok(request(number).encode_to_vec().into())).collect()
}

#[tokio::test]
async fn each_request_arrives_and_rejections_and_retries_are_counted() -> Result<()> {
    let receiver = Receiver::default();
    let unavailable = || Err(Status::unavailable("later"));
    receiver.answers.lock().await.extend([unavailable(), unavailable(), Ok(2), Ok(0), unavailable(), Ok(3)]);
    let stats = send_grpc(&receiver.serve_grpc_traces()?, Signal::Traces, requests(20), 1).await?;
    assert_eq!((stats.requests, stats.retries, stats.rejected), (20, 3, 5));
    assert_eq!(*receiver.traces.lock().await, (0..20).map(request).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn several_connections_share_the_requests() -> Result<()> {
    let receiver = Receiver::default();
    let stats = send_grpc(&receiver.serve_grpc_traces()?, Signal::Traces, requests(100), 4).await?;
    assert_eq!((stats.requests, stats.retries), (100, 0));
    let mut accepted: Vec<_> =
        receiver.traces.lock().await.iter().map(|request| request.resource_spans[0].schema_url.clone()).collect();
    accepted.sort();
    accepted.dedup();
    assert_eq!(accepted.len(), 100);
    Ok(())
}

#[tokio::test]
async fn a_refusal_ends_the_sending() -> Result<()> {
    let receiver = Receiver::default();
    receiver.answers.lock().await.extend([Ok(0), Err(Status::invalid_argument("no such thing"))]);
    let failure = send_grpc(&receiver.serve_grpc_traces()?, Signal::Traces, requests(1000), 1).await;
    assert!(format!("{failure:?}").contains("no such thing"), "{failure:?}");
    assert_eq!(receiver.traces.lock().await.len(), 1);
    // The server has no such service.
    let failure = send_grpc(&receiver.serve_grpc_traces()?, Signal::Logs, requests(1), 1).await;
    assert!(format!("{failure:?}").contains("not implemented"), "{failure:?}");
    Ok(())
}

#[tokio::test]
async fn an_error_of_the_source_is_passed_on() -> Result<()> {
    let receiver = Receiver::default();
    let mut items = requests(2);
    items.push(Err(anyhow::anyhow!("the source is broken")));
    let failure = send_grpc(&receiver.serve_grpc_traces()?, Signal::Traces, items, 2).await;
    assert!(format!("{failure:?}").contains("the source is broken"), "{failure:?}");
    Ok(())
}
