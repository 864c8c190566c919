//! The runs of a support agent: a language model, its tools, and the shop behind them.

use opentelemetry::logs::Severity;
use opentelemetry::trace::SpanKind;
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::json;

use super::plan::{Fault, Step, about};
use super::shop::{CHECKOUT, http_client};

/// The service of the agent.
pub const AGENT: &str = "support-agent";
const MODEL: &str = "gpt-5-mini";

/// A question of a customer, the tool that answers it, what the tool finds, and the answer.
struct Case {
    question: &'static str,
    tool: &'static str,
    route: &'static str,
    finding: &'static str,
    answer: &'static str,
}

const CASES: [Case; 4] = [
    Case {
        question: "Where is my order? It should have been here on Monday.",
        tool: "lookup_order",
        route: "/orders/{id}",
        finding: r#"{"state":"shipped","carrier":"DHL","eta":"Thursday"}"#,
        answer: "Your order left our warehouse and the carrier expects to deliver it on Thursday.",
    },
    Case {
        question: "I want to return the boots, they are too small.",
        tool: "create_return",
        route: "/returns",
        finding: r#"{"label":"https://shop.example/labels/7731.pdf","days_left":21}"#,
        answer: "Here is your return label. You have 21 days to send the boots back.",
    },
    Case {
        question: "Can I change the delivery address of my order?",
        tool: "lookup_order",
        route: "/orders/{id}",
        finding: r#"{"state":"packing","address_editable":true}"#,
        answer: "Yes, the order is still being packed. Which address should it go to?",
    },
    Case {
        question: "Do you have the desk lamp in black?",
        tool: "search_catalogue",
        route: "/catalogue",
        finding: r#"{"items":[{"slug":"desk-lamp","colour":"black","stock":4}]}"#,
        answer: "Yes, four black desk lamps are in stock.",
    },
];

/// Answers a customer.
pub(super) fn answer(fault: Option<Fault>, random: &mut StdRng) -> Step {
    let case = &CASES[random.random_range(0..CASES.len())];
    let run = Step::new(AGENT, SpanKind::Internal, "invoke_agent customer_support")
        .with("gen_ai.operation.name", "invoke_agent")
        .with("gen_ai.agent.name", "customer_support")
        .with("gen_ai.provider.name", "openai")
        .with("gen_ai.conversation.id", format!("conv_{:08x}", random.random::<u32>()))
        .working(about(1.5, random))
        .logging(Severity::Info, "conversation started");
    let asked = json!([
        {"role": "system", "parts": [{"type": "text", "content": "You are the support agent of a web shop."}]},
        {"role": "user", "parts": [{"type": "text", "content": case.question}]},
    ]);
    let calls = json!([{"role": "assistant", "parts": [{"type": "tool_call", "name": case.tool, "arguments": {}}]}]);
    if fault == Some(Fault::RateLimit) {
        let message = format!("HTTP 429 rate_limit_exceeded: {MODEL} TPM limit 60000, used 59871, requested 1240");
        let chat = chat(&asked.to_string(), random)
            .with("http.response.status_code", 429)
            .logging(Severity::Error, format!("openai.RateLimitError: {message}; retry-after 17s"))
            .throwing("RateLimitError", message.clone());
        return run
            .then(chat)
            .logging(Severity::Error, format!("agent run ended: {message}"))
            .failing("RateLimitError", message);
    }
    let told = json!([{"role": "assistant", "parts": [{"type": "text", "content": case.answer}]}]);
    run.then(chat(&asked.to_string(), random).with("gen_ai.output.messages", calls.to_string()))
        .then(tool(case, random))
        .then(chat(&asked.to_string(), random).with("gen_ai.output.messages", told.to_string()))
        .logging(Severity::Info, "conversation answered")
}

fn chat(asked: &str, random: &mut StdRng) -> Step {
    let read: i64 = random.random_range(400..1800);
    let written: i64 = random.random_range(20..160);
    Step::new(AGENT, SpanKind::Client, format!("chat {MODEL}"))
        .with("gen_ai.operation.name", "chat")
        .with("gen_ai.provider.name", "openai")
        .with("gen_ai.request.model", MODEL)
        .with("gen_ai.usage.input_tokens", read)
        .with("gen_ai.usage.output_tokens", written)
        .with("gen_ai.input.messages", asked.to_owned())
        .with("server.address", "api.openai.com")
        .working(about(650.0, random))
}

fn tool(case: &Case, random: &mut StdRng) -> Step {
    let call = http_client(AGENT, CHECKOUT, "GET", case.route, 8081).then(
        Step::new(CHECKOUT, SpanKind::Server, format!("GET {}", case.route))
            .with("http.request.method", "GET")
            .with("http.route", case.route)
            .with("http.response.status_code", 200)
            .working(about(9.0, random)),
    );
    Step::new(AGENT, SpanKind::Internal, format!("execute_tool {}", case.tool))
        .with("gen_ai.operation.name", "execute_tool")
        .with("gen_ai.tool.name", case.tool)
        .with("gen_ai.tool.call.id", format!("call_{:08x}", random.random::<u32>()))
        .with("gen_ai.tool.call.result", case.finding)
        .then(call.with("http.response.status_code", 200))
        .working(about(2.0, random))
}
