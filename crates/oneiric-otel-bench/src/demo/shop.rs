//! The requests of a web shop: browsing, filling a cart, checking out.

use std::time::Duration;

use opentelemetry::logs::Severity;
use opentelemetry::trace::SpanKind;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::plan::{Fault, Step, about};

/// What customers see.
pub const STOREFRONT: &str = "storefront";
/// Orders and carts.
pub const CHECKOUT: &str = "checkout";
/// What is in stock.
pub const INVENTORY: &str = "inventory";
/// Charges cards.
pub const PAYMENT: &str = "payment";
/// What goes with a product.
pub const RECOMMENDATION: &str = "recommendation";

const PRODUCTS: [&str; 8] = [
    "espresso-machine",
    "desk-lamp",
    "hiking-boots",
    "tea-kettle",
    "rain-jacket",
    "notebook",
    "bike-pump",
    "headphones",
];

/// Looking at a product: its stock and what goes with it.
pub(super) fn browse(fault: Option<Fault>, random: &mut StdRng) -> Step {
    let product = PRODUCTS[random.random_range(0..PRODUCTS.len())];
    let step = server(STOREFRONT, "GET", "/products/{slug}", about(3.0, random))
        .with("url.path", format!("/products/{product}"))
        .with("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64) Firefox/143.0");
    let step = step.then(stock(fault, product, random));
    let step = step.then(recommend(fault, product, random)).working(about(2.0, random));
    // A page without recommendations is still a page.
    if fault == Some(Fault::Timeout) {
        return step
            .logging(Severity::Warn, "rendering fallback: recommendation.ListRecommendations deadline exceeded")
            .with("http.response.status_code", 504)
            .failing("504", "upstream recommendation: DEADLINE_EXCEEDED");
    }
    step.logging(Severity::Info, format!("GET /products/{product} 200")).with("http.response.status_code", 200)
}

/// Putting something into the cart.
pub(super) fn fill_cart(random: &mut StdRng) -> Step {
    let product = PRODUCTS[random.random_range(0..PRODUCTS.len())];
    let quantity = random.random_range(1..4);
    let redis = redis(CHECKOUT, "HSET", about(0.8, random));
    let add = server(CHECKOUT, "POST", "/cart/items", about(2.0, random))
        .with("app.product", product)
        .with("app.quantity", i64::from(quantity))
        .then(redis)
        .with("http.response.status_code", 201)
        .logging(Severity::Info, format!("added {quantity} x {product}"));
    server(STOREFRONT, "POST", "/cart", about(2.0, random))
        .then(
            http_client(STOREFRONT, CHECKOUT, "POST", "/cart/items", 8081)
                .then(add)
                .with("http.response.status_code", 201),
        )
        .with("http.response.status_code", 200)
}

/// Ordering and paying.
pub(super) fn check_out(fault: Option<Fault>, random: &mut StdRng) -> Step {
    let order = random.random_range(10_000..99_999);
    let total = random.random_range(900..40_000);
    let mut place = server(CHECKOUT, "POST", "/orders", about(4.0, random))
        .with("app.order.id", format!("ord-{order}"))
        .with("app.order.total_cents", i64::from(total));
    place = place.then(validate(fault, random));
    let (status, problem): (i64, Option<(&str, String)>) = if fault == Some(Fault::BadInput) {
        (422, Some(("ValidationError", "shipping_address.postal_code: does not match ^[0-9]{5}$".to_owned())))
    } else {
        place = place.then(reserve(random));
        match charge(fault, random) {
            Ok(step) => {
                place = place.then(step);
                (201, None)
            }
            Err(step) => {
                let message = step.error.as_ref().map(|problem| problem.message.clone()).unwrap_or_default();
                place = place
                    .logging(Severity::Warn, format!("charge attempt 3/3 for ord-{order}: {message}"))
                    .then(*step)
                    .logging(Severity::Error, format!("order ord-{order} aborted: {message}"));
                (503, Some(("ECONNREFUSED", message)))
            }
        }
    };
    place = place.with("http.response.status_code", status);
    let mut client =
        http_client(STOREFRONT, CHECKOUT, "POST", "/orders", 8081).with("http.response.status_code", status);
    let mut page = server(STOREFRONT, "POST", "/checkout", about(3.0, random));
    match problem {
        None => {
            place = place.logging(Severity::Info, format!("order ord-{order} placed, {total} cents"));
            client = client.then(place);
        }
        Some((kind, message)) => {
            place = place.failing(kind, message);
            client = client.then(place).failing(&status.to_string(), format!("HTTP {status}"));
            page = page.failing(&status.to_string(), format!("HTTP {status} from checkout"));
        }
    }
    page.then(client).with("http.response.status_code", status)
}

fn validate(fault: Option<Fault>, random: &mut StdRng) -> Step {
    let step = Step::new(CHECKOUT, SpanKind::Internal, "validate order").working(about(0.4, random));
    if fault != Some(Fault::BadInput) {
        return step;
    }
    let code = ["1234", "ABC-99", "9O210", "SW1A 1AA"][random.random_range(0..4)];
    let message = format!("shipping_address.postal_code: '{code}' does not match ^[0-9]{{5}}$");
    step.logging(Severity::Warn, format!("HTTP 422 ValidationError: {message}")).throwing("ValidationError", message)
}

fn reserve(random: &mut StdRng) -> Step {
    let update = postgres(INVENTORY, "UPDATE", "stock", about(3.0, random));
    let server = server(INVENTORY, "POST", "/reservations", about(1.5, random))
        .then(update)
        .with("http.response.status_code", 200);
    http_client(CHECKOUT, INVENTORY, "POST", "/reservations", 8082).then(server).with("http.response.status_code", 200)
}

/// The call of the payment service; `Err` when it failed.
fn charge(fault: Option<Fault>, random: &mut StdRng) -> Result<Step, Box<Step>> {
    let client = http_client(CHECKOUT, PAYMENT, "POST", "/charge", 8443);
    if fault == Some(Fault::RefusedConnection) {
        let host = random.random_range(6..9);
        let message = format!("connect ECONNREFUSED 10.0.3.{host}:8443");
        let step = client
            .with("network.peer.address", format!("10.0.3.{host}"))
            .working(about(1.2, random))
            .logging(Severity::Error, format!("POST https://payment:8443/charge: {message}"))
            .throwing("ECONNREFUSED", message);
        return Err(Box::new(step));
    }
    let insert = postgres(PAYMENT, "INSERT", "charges", about(4.0, random));
    let provider = Step::new(PAYMENT, SpanKind::Client, "POST")
        .with("http.request.method", "POST")
        .with("server.address", "api.cardprovider.example")
        .with("http.response.status_code", 200)
        .working(about(90.0, random));
    let server = server(PAYMENT, "POST", "/charge", about(2.0, random))
        .then(provider)
        .then(insert)
        .logging(Severity::Info, "charge authorised")
        .with("http.response.status_code", 200);
    Ok(client.then(server).with("http.response.status_code", 200))
}

fn stock(fault: Option<Fault>, product: &str, random: &mut StdRng) -> Step {
    let mut select = postgres(INVENTORY, "SELECT", "stock", about(2.5, random));
    let mut server =
        server(INVENTORY, "GET", "/stock/{sku}", about(1.0, random)).with("app.product", product.to_owned());
    if fault == Some(Fault::SlowDependency) {
        let waited = Duration::from_millis(random.random_range(4_200..6_800));
        select = select.working(waited).with("db.response.returned_rows", 1);
        server = server.then(select).logging(
            Severity::Warn,
            format!("query SELECT stock elapsed {} ms, threshold 500 ms, seq scan on stock", waited.as_millis()),
        );
    } else {
        server = server.then(select);
    }
    http_client(STOREFRONT, INVENTORY, "GET", "/stock/{sku}", 8082)
        .then(server.with("http.response.status_code", 200))
        .with("http.response.status_code", 200)
}

fn recommend(fault: Option<Fault>, product: &str, random: &mut StdRng) -> Step {
    const METHOD: &str = "recommendation.Recommender/ListRecommendations";
    let client = Step::new(STOREFRONT, SpanKind::Client, METHOD)
        .with("rpc.system.name", "grpc")
        .with("rpc.method", METHOD)
        .with("server.address", "recommendation")
        .with("server.port", 50_051)
        .with("service.peer.name", RECOMMENDATION);
    let mut server = Step::new(RECOMMENDATION, SpanKind::Server, METHOD)
        .with("rpc.system.name", "grpc")
        .with("app.product", product.to_owned())
        .working(about(2.0, random));
    match fault {
        Some(Fault::Timeout) => {
            let rank = Step::new(RECOMMENDATION, SpanKind::Internal, "rank candidates").working(Duration::from_secs(2));
            server = server
                .then(rank)
                .with("rpc.response.status_code", "CANCELLED")
                .logging(Severity::Warn, "rank candidates: context deadline exceeded after 2000ms");
            let late = client.then(server).with("rpc.response.status_code", "DEADLINE_EXCEEDED");
            return late.throwing("DEADLINE_EXCEEDED", "4 DEADLINE_EXCEEDED: context deadline exceeded after 2000ms");
        }
        Some(Fault::RefusedConnection) => {
            let message = "dial tcp 10.0.5.2:6379: connect: ECONNREFUSED";
            server = server
                .then(redis(RECOMMENDATION, "GET", about(0.5, random)).throwing("ECONNREFUSED", message))
                .logging(Severity::Error, format!("cache read bypassed: {message}"));
        }
        _ => server = server.then(redis(RECOMMENDATION, "GET", about(0.5, random))),
    }
    let rank = Step::new(RECOMMENDATION, SpanKind::Internal, "rank candidates").working(about(12.0, random));
    client.then(server.then(rank).with("rpc.response.status_code", "OK")).with("rpc.response.status_code", "OK")
}

fn server(service: &'static str, method: &'static str, route: &'static str, time: Duration) -> Step {
    Step::new(service, SpanKind::Server, format!("{method} {route}"))
        .with("http.request.method", method)
        .with("http.route", route)
        .with("url.scheme", "https")
        .working(time)
}

pub(super) fn http_client(
    service: &'static str,
    peer: &'static str,
    method: &'static str,
    route: &str,
    port: i64,
) -> Step {
    Step::new(service, SpanKind::Client, format!("{method} {route}"))
        .with("http.request.method", method)
        .with("url.full", format!("https://{peer}:{port}{route}"))
        .with("server.address", peer)
        .with("server.port", port)
        .with("service.peer.name", peer)
}

fn postgres(service: &'static str, operation: &'static str, table: &'static str, time: Duration) -> Step {
    Step::new(service, SpanKind::Client, format!("{operation} {table}"))
        .with("db.system.name", "postgresql")
        .with("db.namespace", service)
        .with("db.operation.name", operation)
        .with("db.collection.name", table)
        .with("server.address", "pg-primary")
        .with("server.port", 5432)
        .working(time)
}

fn redis(service: &'static str, operation: &'static str, time: Duration) -> Step {
    Step::new(service, SpanKind::Client, operation)
        .with("db.system.name", "redis")
        .with("db.operation.name", operation)
        .with("server.address", "redis")
        .with("server.port", 6379)
        .working(time)
}
