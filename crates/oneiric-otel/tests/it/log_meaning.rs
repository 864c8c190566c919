//! How far the floor of logs by meaning tells questions that the templates of a real system answer from others.

#![expect(clippy::print_stdout, reason = "the figures are those of docs/benchmarks.md")]

use oneiric_otel::otlp::Signal;
use oneiric_otel::query::{LOG_FLOOR, LogsRequest};
use oneiric_otel_testkit::data::shared_data_for;
use oneiric_otel_testkit::nezha;

use crate::scene::Scene;

/// What somebody may ask, and a part of every template that answers it. Written before any cosine was seen.
const ANSWERED: &[(&str, &[&str])] = &[
    ("the contact of a passenger does not exist", &["[No contacts according to contactsId]"]),
    ("looking up a contact found nothing", &["[No contacts according to contactsId]"]),
    ("a ticket cannot be collected because its order is in the wrong state", &["ticket collect error"]),
    ("tickets that could not be used at the gate", &["ticket execute error"]),
    ("routes could not be loaded", &["Get Route By Ids Failed"]),
    ("an exception while the price was computed", &["catch price exception"]),
    ("food on the train is not available", &["Get Food Request Failed", "foodStoresListResult"]),
    ("captcha expired or missing", &["[Get image code warn][Code not found]"]),
    ("payment refused because of the state of the order", &["Order status Not allowed to Pay"]),
    ("an order that does not exist was asked for", &["Get Order By ID Fail"]),
    ("no seats are left on the train", &["Left ticket info is empty", "[Seat][No content]"]),
    ("too many different URLs in the metrics of the HTTP client", &["maximum number of URI tags"]),
    ("insurance was bought", &["createNewAssurance", "AddAssurance"]),
    ("a user signs in", &["Login request", "getToken", "loadUserByUsername"]),
    ("somebody cancels a journey", &["ancel"]),
    ("money is given back to the customer", &["Draw Back Money", "drawBack", "calculateRefund", "refund"]),
    ("a message was sent to the queue", &["Send info to mq", "send to mq"]),
    ("a meal was ordered for delivery", &["elivery", "FoodOrder"]),
    ("a station is checked by its name", &["Station"]),
    ("a booking was stored successfully", &["Order Create Success", "Create Order", "Save Order"]),
    ("fares by route and type of train", &["PriceConfig"]),
    ("check the verification code that the user typed", &["erify"]),
];

/// What none of the lines is about.
const UNANSWERED: &[&str] = &[
    "how do I bake sourdough bread",
    "the weather in Norway next week",
    "disk is full, no space left on device",
    "a TLS certificate has expired",
    "two database transactions deadlocked",
    "the kernel killed the process because memory ran out",
    "a GPU kernel failed to launch",
    "the leader of the raft cluster lost its quorum",
    "a pod was evicted from its node",
    "a DNS name could not be resolved",
    "the printer needs to be refilled",
    "a container image could not be pulled from the registry",
    "garbage collection paused the program for seconds",
    "a patient's blood pressure is too high",
    "the guitarist tuned the strings before the concert",
    "the language model ran out of tokens",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_floor_divides_what_a_real_system_says_from_what_it_does_not() {
    let name = "the_floor_divides_what_a_real_system_says_from_what_it_does_not";
    let Some(dir) = shared_data_for(name, nezha::FOLDER) else { return };
    let scene = Scene::new().await;
    for request in nezha::logs(&dir) {
        scene.bench.send(Signal::Logs, request.unwrap().to_vec()).await.unwrap();
    }
    scene.embed().await;
    let queries = scene.queries();
    let nearest = async |question: &str| {
        let request = LogsRequest { query: Some(question.to_owned()), limit: 1, ..LogsRequest::default() };
        queries.search_logs_by_meaning(&request).await.unwrap().templates
    };
    let (mut first, mut in_three, mut found, mut told) = (0, 0, 0, 0);
    for (question, parts) in ANSWERED {
        let near = nearest(question).await;
        let place = near.iter().position(|near| parts.iter().any(|part| near.template.contains(part)));
        first += usize::from(place == Some(0));
        in_three += usize::from(place.is_some_and(|place| place < 3));
        found += usize::from(place.is_some());
        let cosine = place.map(|place| near[place].cosine);
        println!("{question}: place {place:?} of {}, cosine {cosine:?}", near.len());
    }
    for question in UNANSWERED {
        let near = nearest(question).await;
        told += usize::from(near.is_empty());
        println!("{question}: {:?}", near.first().map(|near| (near.cosine, &near.template)));
    }
    let templates = scene.bench.count("otel_log_templates").await;
    let (answered, unanswered) = (ANSWERED.len(), UNANSWERED.len());
    println!(
        "{templates} templates, floor {LOG_FLOOR}: the answer is first for {first}, among three for {in_three} and found"
    );
    println!("for {found} of {answered}; {told} of {unanswered} questions without an answer are told so");
    assert!(templates < 300, "what varies makes no templates");
    assert!(first >= 11 && in_three >= 13 && found >= 19, "of {answered}");
    assert!(told >= 10, "of {unanswered}");
}
