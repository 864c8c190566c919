//! The words that the company's names are made of.

/// A service's name, the entities that it looks after, and its tier: 0 faces customers, 2 calls no other service.
pub(crate) const SERVICES: [(&str, [&str; 2], u8); 40] = [
    ("storefront", ["page", "session"], 0),
    ("mobile-gateway", ["screen", "device"], 0),
    ("partner-api", ["feed", "partner"], 0),
    ("back-office", ["dashboard", "export"], 0),
    ("scheduler", ["job", "run"], 0),
    ("support-agent", ["conversation", "answer"], 0),
    ("checkout", ["order", "basket"], 1),
    ("payments", ["payment", "refund"], 1),
    ("inventory", ["stock", "reservation"], 1),
    ("catalogue", ["product", "category"], 1),
    ("search", ["query", "suggestion"], 1),
    ("pricing", ["price", "discount"], 1),
    ("shipping", ["parcel", "label"], 1),
    ("returns", ["return", "inspection"], 1),
    ("accounts", ["customer", "profile"], 1),
    ("bookings", ["booking", "slot"], 1),
    ("invoicing", ["invoice", "reminder"], 1),
    ("fraud", ["assessment", "rule"], 1),
    ("recommendations", ["recommendation", "ranking"], 1),
    ("reviews", ["review", "rating"], 1),
    ("promotions", ["coupon", "campaign"], 1),
    ("loyalty", ["balance", "reward"], 1),
    ("warehouse", ["pick", "shelf"], 1),
    ("planner-agent", ["plan", "step"], 1),
    ("notifications", ["message", "subscription"], 2),
    ("ledger", ["entry", "posting"], 2),
    ("tax", ["rate", "exemption"], 2),
    ("currency", ["quote", "conversion"], 2),
    ("media", ["image", "thumbnail"], 2),
    ("documents", ["document", "template"], 2),
    ("reports", ["report", "snapshot"], 2),
    ("experiments", ["experiment", "variant"], 2),
    ("feature-flags", ["flag", "segment"], 2),
    ("audit", ["event", "trail"], 2),
    ("identity", ["token", "credential"], 2),
    ("consent", ["consent", "purpose"], 2),
    ("geocoding", ["location", "region"], 2),
    ("addresses", ["address", "postcode"], 2),
    ("calendar", ["appointment", "holiday"], 2),
    ("routing", ["route", "stop"], 2),
];

/// What an HTTP operation does: its method, what follows the entity in its route, and the verb of it.
pub(crate) const HTTP: [(&str, &str, &str); 5] = [
    ("GET", "s/{id}", "read"),
    ("GET", "s", "list"),
    ("POST", "s", "create"),
    ("PUT", "s/{id}", "change"),
    ("DELETE", "s/{id}", "cancel"),
];

/// Verbs of remote procedures.
pub(super) const RPC: [&str; 5] = ["Get", "List", "Create", "Update", "Check"];

/// Computations inside a service.
pub(super) const WORK: [&str; 12] = [
    "validate input",
    "render template",
    "apply rules",
    "merge results",
    "compute totals",
    "check permissions",
    "serialise response",
    "rank candidates",
    "resolve variants",
    "normalise fields",
    "sign payload",
    "compress archive",
];

/// Log lines; `{id}`, `{n}`, `{entity}` and `{host}` are filled in.
pub(super) const LINES: [&str; 12] = [
    "{entity} {id} loaded from replica {host} in {n} ms",
    "cache miss for {entity}:{id}, fetching",
    "accepted {entity} {id} from 10.4.{n}.17",
    "{entity} {id} changed state from pending to confirmed",
    "sent {n} {entity} updates to topic {entity}-events",
    "user u-{id} opened {entity} list, page {n}",
    "retry {n} of 3 succeeded for {entity} {id}",
    "validated {entity} {id}: {n} fields",
    "wrote /var/spool/{entity}/{id}.json ({n} bytes)",
    "rate limit for tenant t-{n} at 80 percent while handling {entity}",
    "{entity} {id} expires in {n} minutes",
    "com.example.{entity}.Handler finished {id} with {n} changes",
];

/// Log lines of an instance that belong to no trace.
pub(super) const IDLE_LINES: [&str; 5] = [
    "GC pause {n} ms, heap 412 MB after, 900 MB before",
    "health check from {host} answered in {n} ms",
    "connection pool: {n} of 50 in use",
    "configuration reloaded, {n} keys",
    "certificate of {host} expires in {n} days",
];

pub(super) const USER_AGENTS: [&str; 4] = [
    "Mozilla/5.0 (X11; Linux x86_64) Firefox/143.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) Safari/605.1",
    "okhttp/4.12.0",
    "python-requests/2.32.3",
];
