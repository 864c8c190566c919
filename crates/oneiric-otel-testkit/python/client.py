"""Sends a known set of traces, metrics and logs with the OpenTelemetry Python SDK, and prints what it sent.

    client.py --endpoint http://127.0.0.1:4317 --protocol grpc --seed 7 [--gzip]
    client.py --endpoint http://127.0.0.1:4318 --protocol http/protobuf --seed 7 [--gzip]

The set depends on the seed alone, except for the times of metrics: the same seed sends the same spans and log records
again. What is printed is what the SDK handed to its OTLP exporter, one JSON object:

    resource  attributes
    spans     trace_id, span_id, parent_span_id (hex or ""), trace_state, name, kind and status.code (numbers of OTLP),
              status.message, start_time_unix_nano, end_time_unix_nano, attributes, events, links, scope, and the three
              dropped_*_count
    logs      trace_id, span_id, time_unix_nano, observed_time_unix_nano, severity_number, severity_text, event_name,
              body, attributes, scope
    metrics   name, description, unit, type (sum, gauge, histogram, exponential_histogram), scope; where they apply
              temporality (number of OTLP) and monotonic; points with attributes, times, exemplars and the values

A scope has name, version, schema_url, attributes. Attribute values and bodies: strings, booleans, integers, floats
(always with a point or an exponent), null and arrays are what they look like; {"bytes": hex}, {"map": {...}} and
{"float": "NaN" | "Infinity" | "-Infinity"} are what JSON cannot say.

Headers and certificates come from the variables OTEL_EXPORTER_OTLP_HEADERS and OTEL_EXPORTER_OTLP_CERTIFICATE.

Exits with 1 if an export failed.
"""

import argparse
import json
import math
import random
import sys
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.metrics import Observation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ExponentialHistogram,
    Gauge,
    Histogram,
    PeriodicExportingMetricReader,
    Sum,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

# 2025-06-01T00:00:00Z
BASE_NANOS = 1_748_736_000_000_000_000
MILLISECOND = 1_000_000
TRACES = 5


def to_json(value):
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return {"float": "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, Mapping):
        return {"map": {key: to_json(item) for key, item in value.items()}}
    return [to_json(item) for item in value]


def attributes_to_json(attributes):
    return {key: to_json(value) for key, value in (attributes or {}).items()}


def hex_id(number, digits):
    return format(number, f"0{digits}x") if number else ""


def scope_to_json(scope):
    return {
        "name": scope.name,
        "version": scope.version or "",
        "schema_url": scope.schema_url or "",
        "attributes": attributes_to_json(scope.attributes),
    }


def span_to_json(span):
    context = span.get_span_context()
    return {
        "trace_id": hex_id(context.trace_id, 32),
        "span_id": hex_id(context.span_id, 16),
        "parent_span_id": hex_id(span.parent.span_id, 16) if span.parent else "",
        "trace_state": context.trace_state.to_header(),
        "name": span.name,
        "kind": span.kind.value + 1,
        "start_time_unix_nano": span.start_time,
        "end_time_unix_nano": span.end_time,
        "attributes": attributes_to_json(span.attributes),
        "events": [
            {"name": event.name, "time_unix_nano": event.timestamp, "attributes": attributes_to_json(event.attributes)}
            for event in span.events
        ],
        "links": [
            {
                "trace_id": hex_id(link.context.trace_id, 32),
                "span_id": hex_id(link.context.span_id, 16),
                "trace_state": link.context.trace_state.to_header(),
                "attributes": attributes_to_json(link.attributes),
            }
            for link in span.links
        ],
        "status": {"code": span.status.status_code.value, "message": span.status.description or ""},
        "scope": scope_to_json(span.instrumentation_scope),
        "dropped_attributes_count": span.dropped_attributes,
        "dropped_events_count": span.dropped_events,
        "dropped_links_count": span.dropped_links,
    }


def log_to_json(data):
    record = data.log_record
    return {
        "trace_id": hex_id(record.trace_id, 32),
        "span_id": hex_id(record.span_id, 16),
        "time_unix_nano": record.timestamp or 0,
        "observed_time_unix_nano": record.observed_timestamp or 0,
        "severity_number": record.severity_number.value if record.severity_number else 0,
        "severity_text": record.severity_text or "",
        "event_name": record.event_name or "",
        "body": to_json(record.body),
        "attributes": attributes_to_json(record.attributes),
        "scope": scope_to_json(data.instrumentation_scope),
    }


def buckets_to_json(buckets):
    return {"offset": buckets.offset, "bucket_counts": list(buckets.bucket_counts)}


def point_to_json(point):
    result = {
        "attributes": attributes_to_json(point.attributes),
        "start_time_unix_nano": point.start_time_unix_nano or 0,
        "time_unix_nano": point.time_unix_nano,
        "exemplars": [
            {
                "value": exemplar.value,
                "time_unix_nano": exemplar.time_unix_nano,
                "trace_id": hex_id(exemplar.trace_id, 32),
                "span_id": hex_id(exemplar.span_id, 16),
                "filtered_attributes": attributes_to_json(exemplar.filtered_attributes),
            }
            for exemplar in point.exemplars
        ],
    }
    if hasattr(point, "value"):
        result["value"] = point.value
        return result
    # The encoder of the SDK turns the sum, the minimum and the maximum into doubles.
    result.update(count=point.count, sum=float(point.sum), min=float(point.min), max=float(point.max))
    if hasattr(point, "scale"):
        result.update(
            scale=point.scale,
            zero_count=point.zero_count,
            positive=buckets_to_json(point.positive),
            negative=buckets_to_json(point.negative),
        )
    else:
        result.update(
            bucket_counts=list(point.bucket_counts), explicit_bounds=[float(bound) for bound in point.explicit_bounds]
        )
    return result


METRIC_TYPES = {
    Sum: "sum",
    Gauge: "gauge",
    Histogram: "histogram",
    ExponentialHistogram: "exponential_histogram",
}


def metric_to_json(metric, scope):
    result = {
        "name": metric.name,
        "description": metric.description or "",
        "unit": metric.unit or "",
        "type": METRIC_TYPES[type(metric.data)],
        "scope": scope_to_json(scope),
        "points": [point_to_json(point) for point in metric.data.data_points],
    }
    if hasattr(metric.data, "aggregation_temporality"):
        result["temporality"] = metric.data.aggregation_temporality.value
    if hasattr(metric.data, "is_monotonic"):
        result["monotonic"] = metric.data.is_monotonic
    return result


def metrics_to_json(data):
    return [
        metric_to_json(metric, scope_metrics.scope)
        for resource_metrics in data.resource_metrics
        for scope_metrics in resource_metrics.scope_metrics
        for metric in scope_metrics.metrics
    ]


def recording(exporter_class, sent, failures, describe):
    """The exporter, which also notes what it is given and whether the server took it."""

    class Recording(exporter_class):
        def export(self, batch, *arguments, **options):
            sent.extend(describe(batch))
            result = super().export(batch, *arguments, **options)
            if result.name != "SUCCESS":
                failures.append(f"{exporter_class.__name__}: {result.name}")
            return result

    return Recording


class SeededIds(IdGenerator):
    def __init__(self, chance):
        self.chance = chance

    def generate_span_id(self):
        return self.chance.randrange(1, 1 << 64)

    def generate_trace_id(self):
        return self.chance.randrange(1, 1 << 128)


def attributes_of_all_types(chance):
    return {
        "http.request.method": "POST",
        "url.path": "/bestellung/größe/" + "".join(chance.choice("äöü€漢字🚆é") for _ in range(8)),
        "empty": "",
        "quotes": "it's \"quoted\" \\ and\nbroken\tup",
        "http.response.status_code": chance.choice([200, 404, 500]),
        "int.min": -(1 << 63),
        "int.max": (1 << 63) - 1,
        "double": chance.uniform(-1e6, 1e6),
        "double.whole": 2.0,
        "double.tiny": 5e-324,
        "flag": chance.random() < 0.5,
        "strings": ["eins", "два", "三", ""],
        "ints": [chance.randrange(-1000, 1000) for _ in range(4)],
        "doubles": [0.1, -0.0, 1e300],
        "flags": [True, False, True],
        "none": [],
    }


def send_traces(provider, chance, start):
    """Nested spans with events, links, exceptions. Returns the contexts of the leaves, with their times."""
    tracer = provider.get_tracer(
        "oneiric.test.tracer", "1.2.3", "https://opentelemetry.io/schemas/1.30.0", attributes={"scope.kind": "tracer"}
    )
    other = provider.get_tracer("oneiric.test.other")
    leaves = []
    earlier = None
    for number in range(TRACES):
        now = start + number * 1000 * MILLISECOND + chance.randrange(MILLISECOND)
        root = tracer.start_span(
            f"bestellen {number}", kind=SpanKind.SERVER, start_time=now, attributes=attributes_of_all_types(chance)
        )
        within = trace.set_span_in_context(root)
        state = TraceState([("vendor", "a:b"), ("other", str(number))])
        foreign = SpanContext(
            chance.randrange(1, 1 << 128), chance.randrange(1, 1 << 64), True, TraceFlags(TraceFlags.SAMPLED), state
        )
        links = [Link(foreign, {"link.kind": "foreign", "weight": 0.5})]
        if earlier is not None:
            links.append(Link(earlier))
        client = other.start_span(
            "GET /zahlung", context=within, kind=SpanKind.CLIENT, start_time=now + 2 * MILLISECOND, links=links
        )
        client.add_event("retry", {"attempt": 2, "reasons": ["timeout", "zurückgewiesen"]}, now + 3 * MILLISECOND)
        client.add_event("bare", timestamp=now + 3 * MILLISECOND)
        inner = trace.set_span_in_context(client)
        for kind in (SpanKind.INTERNAL, SpanKind.PRODUCER, SpanKind.CONSUMER):
            leaf = tracer.start_span(
                f"{kind.name.lower()} step", context=inner, kind=kind, start_time=now + 4 * MILLISECOND
            )
            leaf.set_attribute("messaging.message.body.size", chance.randrange(1 << 20))
            leaf.end(now + 5 * MILLISECOND + chance.randrange(1000))
            leaves.append((leaf.get_span_context(), now + 4 * MILLISECOND))
        if number % 2:
            try:
                raise ConnectionRefusedError(f"zahlung:{chance.randrange(1024, 65536)} abgelehnt")
            except ConnectionRefusedError as error:
                client.record_exception(error, {"attempt": 3}, timestamp=now + 6 * MILLISECOND)
            client.set_status(Status(StatusCode.ERROR, "payment refused ✗"))
        else:
            client.set_status(StatusCode.OK)
        client.end(now + 7 * MILLISECOND)
        root.end(now + 9 * MILLISECOND + chance.randrange(MILLISECOND))
        earlier = root.get_span_context()
    # A parent that another process would have sent, with trace state that the child inherits.
    remote = trace.set_span_in_context(trace.NonRecordingSpan(foreign))
    child = tracer.start_span("child of a remote parent", context=remote, start_time=start)
    # No time passes, and a name that is empty.
    child.update_name("")
    child.end(start)
    return leaves


def send_logs(provider, chance, start, leaves):
    logger = provider.get_logger("oneiric.test.logger", "4.5", "https://opentelemetry.io/schemas/1.30.0")
    bodies = [
        "payment service antwortet nicht: größer als 5 s 🚆",
        "",
        chance.randrange(1 << 40),
        chance.uniform(0, 1),
        True,
        b"\x00\xff raw",
        ["a", 1, 2.5, False, ["nested"]],
        {"user": {"id": 7, "tags": ["x", "y"]}, "ok": True, "ratio": 1.0},
        None,
    ]
    severities = [
        (SeverityNumber.TRACE, "TRACE"),
        (SeverityNumber.DEBUG, "debug"),
        (SeverityNumber.INFO, "INFO"),
        (SeverityNumber.WARN, "Warnung"),
        (SeverityNumber.ERROR, "ERROR"),
        (SeverityNumber.FATAL4, "FATAL"),
    ]
    for number, body in enumerate(bodies * 2):
        context, when = leaves[number % len(leaves)]
        correlated = number % 3 != 2
        severity, text = severities[number % len(severities)]
        logger.emit(
            timestamp=when + number,
            observed_timestamp=when + MILLISECOND,
            # An empty context, not none: none means the current one.
            context=trace.set_span_in_context(trace.NonRecordingSpan(context) if correlated else trace.INVALID_SPAN),
            severity_number=severity,
            severity_text=text,
            body=body,
            attributes={"number": number, "thread.name": "Fädchen", "share": number / 4, "list": [1, 2]},
            event_name="oneiric.test.event" if number % 4 == 0 else None,
        )
    # As bare as the SDK lets it be, twice the same: both count.
    for _ in range(2):
        logger.emit(observed_timestamp=start, context=trace.set_span_in_context(trace.INVALID_SPAN))


def send_metrics(provider, chance, leaves):
    meter = provider.get_meter("oneiric.test.meter", "0.1", attributes={"scope.kind": "meter"})
    counter = meter.create_counter("test.requests", unit="{request}", description="Anfragen")
    depth = meter.create_up_down_counter("test.queue.depth", unit="{item}")
    ratio = meter.create_up_down_counter("test.balance", unit="1", description="a sum of doubles")
    duration = meter.create_histogram("test.duration", unit="ms", description="explicit buckets")
    size = meter.create_histogram("test.size", unit="By", description="exponential buckets")
    temperature = chance.uniform(-20, 40)
    meter.create_observable_gauge(
        "test.temperature",
        callbacks=[
            lambda _: [
                Observation(temperature, {"room": "Küche"}),
                Observation(21, {"room": "hall"}),
            ]
        ],
        unit="Cel",
    )
    within = [trace.set_span_in_context(trace.NonRecordingSpan(context)) for context, _ in leaves]
    for number in range(200):
        route = {"route": chance.choice(["/a", "/b", "/größe"]), "status": chance.choice([200, 500])}
        # Some within a span, which makes exemplars.
        context = within[number % len(within)] if number % 10 == 0 else None
        counter.add(chance.randrange(1, 5), route, context=context)
        depth.add(chance.randrange(-3, 4), {"queue": "q"})
        ratio.add(chance.uniform(-1, 1))
        duration.record(chance.lognormvariate(4, 2), route, context=context)
        size.record(chance.choice([0.0, chance.lognormvariate(8, 3)]), {"direction": "in"}, context=context)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--protocol", required=True, choices=["grpc", "http/protobuf"])
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--gzip", action="store_true")
    arguments = parser.parse_args()

    base = arguments.endpoint.rstrip("/")
    if arguments.protocol == "grpc":
        import grpc
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        compression = grpc.Compression.Gzip if arguments.gzip else grpc.Compression.NoCompression
        common = {"insecure": not arguments.endpoint.startswith("https:"), "compression": compression}
        endpoints = {"traces": base, "metrics": base, "logs": base}
    else:
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        common = {"compression": Compression.Gzip if arguments.gzip else Compression.NoCompression}
        endpoints = {signal: f"{base}/v1/{signal}" for signal in ("traces", "metrics", "logs")}

    chance = random.Random(arguments.seed)
    start = BASE_NANOS + arguments.seed % 1_000_000 * 60_000 * MILLISECOND
    resource = Resource.create(
        {
            "service.name": "oneiric-test-python",
            "service.namespace": "prüfung",
            "service.instance.id": f"seed-{arguments.seed}",
            "host.cpus": 2,
            "load": 0.25,
            "tags": ["x", "y"],
        }
    )
    spans, metrics, logs, failures = [], [], [], []

    traces_to = recording(OTLPSpanExporter, spans, failures, lambda batch: map(span_to_json, batch))
    tracer_provider = TracerProvider(resource=resource, id_generator=SeededIds(chance), shutdown_on_exit=False)
    tracer_provider.add_span_processor(BatchSpanProcessor(traces_to(endpoint=endpoints["traces"], **common)))

    logs_to = recording(OTLPLogExporter, logs, failures, lambda batch: map(log_to_json, batch))
    logger_provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    logger_provider.add_log_record_processor(
        BatchLogRecordProcessor(logs_to(endpoint=endpoints["logs"], **common))
    )

    metrics_to = recording(OTLPMetricExporter, metrics, failures, metrics_to_json)
    # Exports once, at shutdown.
    reader = PeriodicExportingMetricReader(
        metrics_to(endpoint=endpoints["metrics"], **common), export_interval_millis=3_600_000
    )
    meter_provider = MeterProvider(
        metric_readers=[reader],
        resource=resource,
        shutdown_on_exit=False,
        views=[View(instrument_name="test.size", aggregation=ExponentialBucketHistogramAggregation(max_size=40))],
    )

    leaves = send_traces(tracer_provider, chance, start)
    send_logs(logger_provider, chance, start, leaves)
    send_metrics(meter_provider, chance, leaves)
    tracer_provider.shutdown()
    logger_provider.shutdown()
    meter_provider.shutdown()

    json.dump(
        {"resource": attributes_to_json(resource.attributes), "spans": spans, "metrics": metrics, "logs": logs},
        sys.stdout,
        ensure_ascii=False,
        allow_nan=False,
    )
    if failures:
        sys.exit("the server did not take everything: " + "; ".join(failures))


if __name__ == "__main__":
    main()
