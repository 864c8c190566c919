//! Names of attributes in the semantic conventions, and the names they had before.
//!
//! Promise: the one table of such names. Stored keys stay as they came; whoever compares or shows attributes asks here
//! which names are one. It knows nothing of values.

/// An attribute of the current conventions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convention {
    /// The current name.
    pub name: &'static str,
    /// Names that it had before or has in other conventions, newest first: they mean the same.
    pub former: &'static [&'static str],
    /// Other attributes that say about the same where this one is missing: good enough for a description of a trace,
    /// not for a comparison.
    pub stand_ins: &'static [&'static str],
}

const fn renamed(name: &'static str, former: &'static [&'static str]) -> Convention {
    Convention { name, former, stand_ins: &[] }
}

/// The attributes whose names changed, or that others can stand in for.
pub const CONVENTIONS: &[Convention] = &[
    renamed("http.request.method", &["http.method"]),
    renamed("http.response.status_code", &["http.status_code"]),
    Convention { name: "http.route", former: &[], stand_ins: &["http.target", "url.path"] },
    renamed("url.path", &["http.target"]),
    renamed("url.full", &["http.url"]),
    renamed("url.scheme", &["http.scheme"]),
    Convention {
        name: "server.address",
        former: &["net.peer.name", "http.server_name", "net.sock.peer.name", "net.host.name"],
        stand_ins: &["peer.hostname"],
    },
    renamed("server.port", &["net.peer.port", "net.host.port"]),
    renamed("client.address", &["http.client_ip"]),
    renamed("network.peer.address", &["net.sock.peer.addr", "net.peer.ip"]),
    renamed("network.peer.port", &["net.sock.peer.port"]),
    renamed("network.protocol.name", &["net.protocol.name"]),
    renamed("network.protocol.version", &["net.protocol.version", "http.flavor"]),
    renamed("user_agent.original", &["http.user_agent"]),
    renamed("db.system.name", &["db.system", "db.type"]),
    renamed("db.query.text", &["db.statement"]),
    renamed("db.operation.name", &["db.operation"]),
    renamed("db.namespace", &["db.name", "db.instance", "db.redis.database_index"]),
    renamed(
        "db.collection.name",
        &["db.sql.table", "db.mongodb.collection", "db.cassandra.table", "db.cosmosdb.container"],
    ),
    renamed("db.response.status_code", &["db.cosmosdb.status_code"]),
    renamed("rpc.system.name", &["rpc.system"]),
    renamed(
        "rpc.status_code",
        &[
            "rpc.response.status_code",
            "rpc.grpc.status_code",
            "rpc.connect_rpc.error_code",
            "rpc.jsonrpc.error_code",
            "grpc.status_code",
        ],
    ),
    renamed("messaging.operation.type", &["messaging.operation"]),
    renamed("messaging.destination.name", &["messaging.destination"]),
    renamed("messaging.consumer.group.name", &["messaging.kafka.consumer.group"]),
    renamed("messaging.kafka.offset", &["messaging.kafka.message.offset"]),
    renamed("service.peer.name", &["peer.service"]),
    renamed("deployment.environment.name", &["deployment.environment"]),
    renamed("user.id", &["enduser.id"]),
    renamed("user.roles", &["enduser.role"]),
    renamed("gen_ai.provider.name", &["gen_ai.system", "llm.provider", "llm.system"]),
    Convention {
        name: "gen_ai.request.model",
        former: &["llm.model_name", "llm.request.model"],
        stand_ins: &["gen_ai.response.model"],
    },
    renamed(
        "gen_ai.usage.input_tokens",
        &["gen_ai.usage.prompt_tokens", "llm.token_count.prompt", "llm.usage.prompt_tokens"],
    ),
    renamed(
        "gen_ai.usage.output_tokens",
        &["gen_ai.usage.completion_tokens", "llm.token_count.completion", "llm.usage.completion_tokens"],
    ),
    renamed("gen_ai.usage.cache_read.input_tokens", &["llm.token_count.prompt_details.cache_read"]),
    renamed(
        "gen_ai.usage.cache_write.input_tokens",
        &["gen_ai.usage.cache_creation.input_tokens", "llm.token_count.prompt_details.cache_write"],
    ),
    Convention { name: "gen_ai.agent.name", former: &["agent.name"], stand_ins: &["graph.node.id"] },
    renamed("gen_ai.tool.name", &["tool.name"]),
    Convention {
        name: "gen_ai.operation.name",
        former: &[],
        stand_ins: &["openinference.span.kind", "traceloop.span.kind", "llm.request.type"],
    },
    renamed("code.function.name", &["code.function"]),
    renamed("code.file.path", &["code.filepath"]),
    renamed("code.line.number", &["code.lineno"]),
    renamed("code.column.number", &["code.column"]),
];

/// What is known of a current name.
pub fn convention(name: &str) -> Option<&'static Convention> {
    CONVENTIONS.iter().find(|convention| convention.name == name)
}

/// All names that mean the same as `name`, whether it is a current or a former one; `name` itself comes first, then the
/// current ones.
pub fn same_names(name: &str) -> Vec<&str> {
    let mut names = vec![name];
    let groups = || CONVENTIONS.iter().filter(|group| group.name == name || group.former.contains(&name));
    for other in groups().map(|group| group.name).chain(groups().flat_map(|group| group.former.iter().copied())) {
        if !names.contains(&other) {
            names.push(other);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_names_are_one_whichever_is_asked_for() {
        let mut of_old = same_names("http.status_code");
        assert_eq!(of_old[0], "http.status_code");
        let mut of_new = same_names("http.response.status_code");
        of_old.sort_unstable();
        of_new.sort_unstable();
        assert_eq!(of_old, of_new);
        assert_eq!(same_names("order.id"), ["order.id"]);
    }

    #[test]
    fn what_only_stands_in_is_not_the_same() {
        assert_eq!(same_names("http.route"), ["http.route"]);
        assert_eq!(same_names("url.path"), ["url.path", "http.target"]);
        assert_eq!(same_names("gen_ai.response.model"), ["gen_ai.response.model"]);
    }

    #[test]
    fn every_name_stands_in_the_table_once() {
        for (index, group) in CONVENTIONS.iter().enumerate() {
            assert!(!CONVENTIONS[..index].iter().any(|before| before.name == group.name), "{}", group.name);
            assert!(!group.former.contains(&group.name), "{}", group.name);
            assert!(!group.former.iter().any(|former| group.stand_ins.contains(former)), "{}", group.name);
        }
    }
}
