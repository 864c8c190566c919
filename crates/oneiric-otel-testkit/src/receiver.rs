//! A receiver for the tests of this crate: real gRPC and HTTP servers on loopback that keep what arrives.
//!
//! It keeps messages as they came, and knows nothing of storage or of the rules for what to reject.

use std::collections::VecDeque;
use std::io::Read as _;
use std::sync::Arc;

use anyhow::Result;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;
use tokio::sync::Mutex;
use tonic::codec::CompressionEncoding;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// What has arrived. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Receiver {
    /// How the next trace requests are answered: with a number of rejected spans, or an error.
    pub(crate) answers: Arc<Mutex<VecDeque<Result<i64, Status>>>>,
    pub(crate) traces: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    pub(crate) metrics: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
    pub(crate) logs: Arc<Mutex<Vec<ExportLogsServiceRequest>>>,
    /// The values of `content-encoding` of the HTTP requests.
    pub(crate) encodings: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let rejected_spans = self.answers.lock().await.pop_front().unwrap_or(Ok(0))?;
        self.traces.lock().await.push(request.into_inner());
        let partial_success = Some(ExportTracePartialSuccess { rejected_spans, ..Default::default() });
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.metrics.lock().await.push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.logs.lock().await.push(request.into_inner());
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

impl Receiver {
    /// Serves traces alone over gRPC until the test's runtime ends. Returns the endpoint.
    pub(crate) fn serve_grpc_traces(&self) -> Result<String> {
        let (incoming, endpoint) = listen()?;
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        Ok(endpoint)
    }

    /// Serves all signals over gRPC, likewise.
    pub(crate) fn serve_grpc(&self) -> Result<String> {
        let (incoming, endpoint) = listen()?;
        let gzip = CompressionEncoding::Gzip;
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()).accept_compressed(gzip))
            .add_service(MetricsServiceServer::new(self.clone()).accept_compressed(gzip))
            .add_service(LogsServiceServer::new(self.clone()).accept_compressed(gzip));
        tokio::spawn(server.serve_with_incoming(incoming));
        Ok(endpoint)
    }

    /// Serves all signals over HTTP, likewise.
    pub(crate) async fn serve_http(&self) -> Result<String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let routes = axum::Router::new().route("/v1/{signal}", axum::routing::post(keep)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(endpoint)
    }
}

fn listen() -> Result<(TcpIncoming, String)> {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?).map_err(|error| anyhow::anyhow!("{error}"))?;
    let endpoint = format!("http://{}", incoming.local_addr()?);
    Ok((incoming, endpoint))
}

async fn keep(
    State(receiver): State<Receiver>,
    Path(signal): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(), (StatusCode, String)> {
    let refuse = |error: String| (StatusCode::BAD_REQUEST, error);
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if header("content-type") != "application/x-protobuf" {
        return Err(refuse(format!("content-type {}", header("content-type"))));
    }
    let mut plain = Vec::new();
    match header("content-encoding").as_str() {
        "gzip" => flate2::read::GzDecoder::new(&*body).read_to_end(&mut plain).map_err(|e| refuse(e.to_string()))?,
        _ => (&*body).read_to_end(&mut plain).map_err(|e| refuse(e.to_string()))?,
    };
    receiver.encodings.lock().await.push(header("content-encoding"));
    let plain = Bytes::from(plain);
    let undecodable = |error: prost::DecodeError| refuse(error.to_string());
    match signal.as_str() {
        "traces" => {
            let request = ExportTraceServiceRequest::decode(plain).map_err(undecodable)?;
            receiver.traces.lock().await.push(request);
        }
        "metrics" => {
            let request = ExportMetricsServiceRequest::decode(plain).map_err(undecodable)?;
            receiver.metrics.lock().await.push(request);
        }
        "logs" => {
            let request = ExportLogsServiceRequest::decode(plain).map_err(undecodable)?;
            receiver.logs.lock().await.push(request);
        }
        other => return Err((StatusCode::NOT_FOUND, other.to_owned())),
    }
    Ok(())
}
