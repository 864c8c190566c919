//! Stretches as bytes, for roll-ups. Another form needs another version in `store::rollups`.

use prost::Message;

use super::buckets::{Buckets, Distribution, Side};
use super::partial::{Measure, Partial, Sample};

#[derive(Clone, PartialEq, Message)]
struct StretchMessage {
    #[prost(double, tag = "1")]
    points: f64,
    #[prost(double, tag = "2")]
    sum: f64,
    #[prost(double, tag = "3")]
    min: f64,
    #[prost(double, tag = "4")]
    max: f64,
    #[prost(message, optional, tag = "5")]
    first: Option<SampleMessage>,
    /// None when it is the first.
    #[prost(message, optional, tag = "6")]
    last: Option<SampleMessage>,
    #[prost(message, optional, tag = "7")]
    increase: Option<MeasureMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct SampleMessage {
    #[prost(fixed64, tag = "1")]
    time: u64,
    #[prost(fixed64, tag = "2")]
    start: u64,
    #[prost(message, optional, tag = "3")]
    measure: Option<MeasureMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct MeasureMessage {
    /// None for a distribution.
    #[prost(double, optional, tag = "1")]
    number: Option<f64>,
    #[prost(double, tag = "2")]
    count: f64,
    #[prost(double, optional, tag = "3")]
    sum: Option<f64>,
    #[prost(double, optional, tag = "4")]
    min: Option<f64>,
    #[prost(double, optional, tag = "5")]
    max: Option<f64>,
    /// Of explicit buckets and of quantiles.
    #[prost(double, repeated, tag = "6")]
    bounds: Vec<f64>,
    #[prost(double, repeated, tag = "7")]
    counts: Vec<f64>,
    /// Only of exponential buckets.
    #[prost(sint32, optional, tag = "8")]
    scale: Option<i32>,
    #[prost(double, tag = "9")]
    zero_threshold: f64,
    #[prost(double, tag = "10")]
    zero_count: f64,
    #[prost(sint32, tag = "11")]
    offset: i32,
    #[prost(sint32, tag = "12")]
    negative_offset: i32,
    #[prost(double, repeated, tag = "13")]
    negative_counts: Vec<f64>,
    /// Whether bounds and counts are shares and values.
    #[prost(bool, tag = "14")]
    quantiles: bool,
}

/// A stretch as bytes.
pub(crate) fn encode(stretch: &Partial) -> Vec<u8> {
    let message = StretchMessage {
        points: stretch.points,
        sum: stretch.sum,
        min: stretch.min,
        max: stretch.max,
        first: Some(write_sample(&stretch.first)),
        last: (stretch.last != stretch.first).then(|| write_sample(&stretch.last)),
        increase: stretch.increase.as_ref().map(write_measure),
    };
    message.encode_to_vec()
}

/// What [`encode`] wrote; none for other bytes.
pub(crate) fn decode(bytes: &[u8]) -> Option<Partial> {
    let message = StretchMessage::decode(bytes).ok()?;
    let first = read_sample(message.first?)?;
    let last = match message.last {
        Some(last) => read_sample(last)?,
        None => first.clone(),
    };
    let (points, sum, min, max) = (message.points, message.sum, message.min, message.max);
    Some(Partial { points, sum, min, max, first, last, increase: message.increase.map(read_measure) })
}

fn write_sample(sample: &Sample) -> SampleMessage {
    SampleMessage { time: sample.time, start: sample.start, measure: Some(write_measure(&sample.measure)) }
}

fn read_sample(message: SampleMessage) -> Option<Sample> {
    Some(Sample { time: message.time, start: message.start, measure: read_measure(message.measure?) })
}

fn write_measure(measure: &Measure) -> MeasureMessage {
    let distribution = match measure {
        Measure::Number(number) => return MeasureMessage { number: Some(*number), ..MeasureMessage::default() },
        Measure::Distribution(distribution) => distribution,
    };
    let Distribution { count, sum, min, max, buckets } = distribution.clone();
    let message = MeasureMessage { count, sum, min, max, ..MeasureMessage::default() };
    match buckets {
        Buckets::Explicit { bounds, counts } => MeasureMessage { bounds, counts, ..message },
        Buckets::Exponential { scale, zero_threshold, zero_count, positive, negative } => MeasureMessage {
            scale: Some(scale),
            zero_threshold,
            zero_count,
            offset: positive.offset,
            counts: positive.counts,
            negative_offset: negative.offset,
            negative_counts: negative.counts,
            ..message
        },
        Buckets::Quantiles(quantiles) => {
            let (bounds, counts) = quantiles.into_iter().unzip();
            MeasureMessage { bounds, counts, quantiles: true, ..message }
        }
    }
}

fn read_measure(message: MeasureMessage) -> Measure {
    if let Some(number) = message.number {
        return Measure::Number(number);
    }
    let buckets = match message.scale {
        // Roll-ups of older versions may hold what senders wrote.
        Some(scale) => Buckets::exponential(
            scale,
            (message.zero_threshold, message.zero_count),
            &Side { offset: message.offset, counts: message.counts },
            &Side { offset: message.negative_offset, counts: message.negative_counts },
        ),
        None if message.quantiles => Buckets::Quantiles(message.bounds.into_iter().zip(message.counts).collect()),
        None => Buckets::Explicit { bounds: message.bounds, counts: message.counts },
    };
    let (count, sum, min, max) = (message.count, message.sum, message.min, message.max);
    Measure::Distribution(Distribution { count, sum, min, max, buckets })
}
