use proptest::prelude::*;

use super::*;
use crate::derive::trace;

const MS: u64 = 1_000_000;

fn span(id: u8, parent: u8, service: &str, kind: &str, name: &str) -> SpanFact {
    SpanFact {
        start_ns: 1_700_000_000_000_000_000 + u64::from(id) * MS,
        duration_ns: 10 * MS,
        hash: i64::from(id),
        id: [id; 8],
        parent: (parent != 0).then_some([parent; 8]),
        service: service.into(),
        name: name.into(),
        kind: kind.into(),
        status: "unset".into(),
        http_status: None,
        agent: false,
        error_type: None,
        error_message: None,
        status_message: None,
    }
}

fn failed(mut span: SpanFact, kind: &str, message: &str) -> SpanFact {
    span.status = "error".into();
    span.error_type = (!kind.is_empty()).then(|| kind.to_owned());
    span.status_message = Some(message.to_owned());
    span
}

fn log(severity: i16, body: &str) -> LogFact {
    LogFact {
        time_ns: 1,
        service: "booking".into(),
        severity,
        body: body.to_owned(),
        exception_type: None,
        exception_message: None,
    }
}

fn texts_of(spans: &[SpanFact], logs: &[LogFact], details: &[(usize, &str)]) -> Vec<String> {
    let outline = trace::outline(spans).expect("there are spans");
    let summary = trace::summarise(&trace::Totals::of(spans), spans, logs, &outline);
    let details = details.iter().map(|(place, json)| (*place, Attributes::parse(json, None))).collect();
    describe(&Story { spans, logs, outline: &outline, summary: &summary, details: &details })
}

#[test]
fn a_refused_connection() {
    let spans = [
        failed(span(1, 0, "frontend", "server", "POST /checkout"), "", ""),
        failed(span(2, 1, "checkout", "client", "POST"), "ConnectionError", "connect ECONNREFUSED 10.0.0.7:8443"),
    ];
    assert_eq!(
        texts_of(&spans, &[], &[(1, r#"{"peer.service": "payment", "http.method": "POST"}"#)]),
        [
            "checkout failed calling payment (POST): connection refused, could not connect, service is down or unreachable. \
          Connection Error: connect ECONNREFUSED #. Request frontend POST /checkout failed."
        ]
    );
}

#[test]
fn a_database_and_a_status_code_in_words() {
    let spans = [failed(span(1, 0, "orders", "client", "orders.find"), "ServerSelectionTimeoutError", "db-7:27017")];
    assert_eq!(
        texts_of(
            &spans,
            &[],
            &[(0, r#"{"db.system": "mongodb", "db.mongodb.collection": "orders", "db.operation": "find"}"#)]
        ),
        [
            "orders failed calling the mongodb database orders (find): database is down or unreachable, no server could be \
          selected, timed out, no answer in time, took too long. Server Selection Timeout Error: db-#. Request orders \
          orders.find failed."
        ]
    );
    let forbidden = [failed(span(1, 0, "files", "server", "GET /report/{id}"), "403", "")];
    assert_eq!(
        texts_of(&forbidden, &[], &[(0, r#"{"http.response.status_code": 403}"#)]),
        ["files failed in GET /report/{id}: 403 forbidden, access denied. Request files GET /report/{id} failed."]
    );
}

#[test]
fn old_and_new_conventions_give_one_text() {
    let spans = [failed(span(1, 0, "a", "client", "GET"), "", "")];
    let old = texts_of(&spans, &[], &[(0, r#"{"http.status_code": 503, "net.peer.name": "stock"}"#)]);
    let new = texts_of(&spans, &[], &[(0, r#"{"http.response.status_code": "503", "server.address": "stock"}"#)]);
    assert_eq!(old, new);
    assert!(old[0].contains("503 service unavailable"), "{old:?}");
}

#[test]
fn error_logs_stand_first_where_no_span_failed() {
    let spans = [span(1, 0, "gateway", "server", "POST /book")];
    let logs =
        [log(17, "No contacts according to contactsId 4d2a46c7-71cb-4cf1-b5bb-b68406d9da6f"), log(13, "slow answer")];
    assert_eq!(
        texts_of(&spans, &logs, &[]),
        [
            "booking reports an error: No contacts according to contacts Id #. booking warns: slow answer. Request gateway \
          POST /book."
        ]
    );
}

#[test]
fn a_healthy_trace_lists_what_was_done() {
    let mut spans = [
        span(1, 0, "shop", "server", "GET /cart"),
        span(2, 1, "shop", "client", "SELECT cart 17"),
        span(3, 1, "shop", "client", "SELECT cart 99"),
    ];
    assert_eq!(texts_of(&spans, &[], &[]), ["shop GET /cart succeeded in 10 ms. Operations: SELECT cart #"]);
    spans[0].duration_ns = 2_100 * MS;
    spans[2].duration_ns = 2_000 * MS;
    assert_eq!(
        texts_of(&spans, &[], &[]),
        ["shop GET /cart was slow, took 2 seconds, most of it in shop SELECT cart #. Operations: SELECT cart #"]
    );
}

#[test]
fn an_agents_run_has_a_text_for_each_message() {
    let mut spans = [
        span(1, 0, "crew", "internal", "run"),
        span(2, 1, "crew", "client", "chat gpt"),
        span(3, 1, "crew", "internal", "execute_tool search"),
    ];
    spans[1].agent = true;
    spans[2].agent = true;
    let chat = r#"{"gen_ai.agent.name": "planner", "gen_ai.request.model": "gpt-4o",
        "gen_ai.input.messages": "[{\"role\":\"system\",\"parts\":[{\"type\":\"text\",\"content\":\"be good\"}]},{\"role\":\"user\",\"parts\":[{\"type\":\"text\",\"content\":\"find 3 flights\"}]}]",
        "gen_ai.output.messages": [{"role": "assistant", "parts": [{"type": "text", "content": "I will search."}]}]}"#;
    let tool = r#"{"gen_ai.tool.name": "search", "gen_ai.tool.call.arguments": "{\"to\": \"Rome\"}"}"#;
    assert_eq!(
        texts_of(&spans, &[], &[(1, chat), (2, tool)]),
        [
            "crew run succeeded in 12 ms. Agents: planner. Tools: search. Models: gpt-4o. Operations: chat gpt, \
             execute_tool search"
                .replace("12 ms", "10 ms"),
            "user: find 3 flights".to_owned(),
            "planner: I will search.".to_owned(),
            "search: Rome".to_owned(),
        ]
    );
}

#[test]
fn numbered_attributes_and_repetitions() {
    let mut spans = [span(1, 0, "a", "client", "openai.chat"), span(2, 0, "a", "client", "openai.chat")];
    spans[0].agent = true;
    spans[1].agent = true;
    let first = r#"{"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": "hello there", "gen_ai.completion.0.content": "hi"}"#;
    let second = r#"{"llm.input_messages.0.message.role": "user", "llm.input_messages.0.message.content": "hello there",
        "llm.output_messages.0.message.content": "goodbye"}"#;
    let texts = texts_of(&spans, &[], &[(0, first), (1, second)]);
    assert_eq!(texts.get(1..), Some(["user: hello there".to_owned(), "openai.chat: goodbye".to_owned()].as_slice()));
}

#[test]
fn long_messages_are_cut_between_words_and_the_number_of_texts_is_bounded() {
    let mut spans = [span(1, 0, "a", "client", "chat")];
    spans[0].agent = true;
    let words: Vec<String> = (0..40_000).map(|word| format!("word{word}")).collect();
    let long = serde_json::json!({ "input.value": words.join(" ") }).to_string();
    let texts = texts_of(&spans, &[], &[(0, &long)]);
    assert!(texts.len() > 10 && texts.len() <= MAX_TEXTS, "{}", texts.len());
    assert!(texts[1].starts_with("user: word0 word1"), "{}", texts[1]);
}

#[test]
fn text_hash_is_frozen() {
    // Another hash would store and embed every text anew: a change of the rules is a new version instead.
    assert_eq!(hex::encode(text_hash("a")), "4e8f97a74a98c8136f30ecd9cf742941");
    assert_ne!(text_hash("a"), text_hash("b"));
}

fn any_story() -> impl Strategy<Value = (Vec<SpanFact>, Vec<String>, String)> {
    let spans = prop::collection::vec(
        (1u8..6, 0u8..6, any::<String>(), any::<u64>(), any::<bool>(), any::<bool>(), any::<Option<String>>())
            .prop_map(|(id, parent, name, duration_ns, fails, agent, message)| SpanFact {
                duration_ns,
                agent,
                status: if fails { "error".into() } else { "unset".into() },
                error_message: message,
                ..span(id, parent, &name, "client", &name)
            }),
        1..8,
    );
    (spans, prop::collection::vec(any::<String>(), 0..5), any::<String>())
}

proptest! {
    #[test]
    fn any_trace_has_good_texts((spans, bodies, content) in any_story()) {
        let logs: Vec<LogFact> = bodies.iter().map(|body| log(17, body)).collect();
        let json = serde_json::json!({
            "input.value": content, "gen_ai.tool.name": content, "db.system": content, "peer.service": content,
            "gen_ai.input.messages": content, "http.status_code": content,
        })
        .to_string();
        let details: Vec<(usize, &str)> = (0..spans.len()).map(|place| (place, json.as_str())).collect();
        let texts = texts_of(&spans, &logs, &details);
        prop_assert_eq!(&texts, &texts_of(&spans, &logs, &details));
        prop_assert!(!texts.is_empty() && texts.len() <= MAX_TEXTS);
        for text in &texts {
            prop_assert!(!text.is_empty() && text.chars().count() <= MAX_TEXT_CHARACTERS);
            prop_assert!(!text.contains(char::is_control));
        }
    }
}
