use crate::scene::{Scene, minilm};
use oneiric_otel::otlp::{Encoding, Signal};
use oneiric_otel::pipeline::Request;
use oneiric_otel_testkit::{data::shared_data, nezha, who_and_when};
use std::time::Instant;

async fn fill<E: std::fmt::Debug>(
    scene: &Scene,
    signal: Signal,
    requests: impl Iterator<Item = Result<bytes::Bytes, E>>,
) {
    let mut set = tokio::task::JoinSet::new();
    for body in requests {
        let body = body.unwrap();
        let ingest = scene.bench.ingest.clone();
        while set.len() >= 4 {
            set.join_next().await;
        }
        set.spawn(async move {
            ingest.submit(Request { signal, encoding: Encoding::Protobuf, body }).await.unwrap();
        });
    }
    while set.join_next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn calibrate_nezha() {
    let dir = shared_data().unwrap().join(nezha::FOLDER);
    let scene = Scene::new().await;
    let t = Instant::now();
    fill(&scene, Signal::Traces, nezha::traces(&dir)).await;
    fill(&scene, Signal::Logs, nezha::logs(&dir)).await;
    println!(
        "ingested {:?} spans {} logs {}",
        t.elapsed(),
        scene.bench.count("otel_spans").await,
        scene.bench.count("otel_logs").await
    );
    let t = Instant::now();
    println!("{:?} {:?}", scene.derive().await, t.elapsed());
    println!("texts {} traces {}", scene.bench.count("otel_texts").await, scene.bench.count("otel_traces").await);
    let t = Instant::now();
    println!("{:?} {:?}", scene.embed().await, t.elapsed());
    dump(&scene, "/tmp/nz/texts.tsv", "/tmp/nz/links.tsv").await;
    ndcg(&scene, &dir).await;
    near(&scene, OFF, "off").await;
    near(&scene, ON, "on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calibrate_who() {
    let dir = shared_data().unwrap().join(who_and_when::FOLDER);
    let scene = Scene::new().await;
    fill(&scene, Signal::Traces, who_and_when::traces(&dir)).await;
    println!("who {:?}", scene.derive().await);
    println!("who {:?}", scene.embed().await);
    dump(&scene, "/tmp/nz/who_texts.tsv", "/tmp/nz/who_links.tsv").await;
    near(&scene, OFF, "whooff").await;
    let queries = scene.queries();
    let mut mrr = 0.0;
    let labels = who_and_when::labels(&dir).unwrap();
    for label in &labels {
        let answer = queries
            .search_traces(&oneiric_otel::query::SearchRequest {
                text: label.mistake_reason.clone(),
                limit: 200,
                filter: Default::default(),
            })
            .await
            .unwrap();
        let mut seen = std::collections::HashSet::new();
        let mut rank = 0;
        for hit in &answer.hits {
            if seen.insert(hit.newest.trace_id) {
                rank += 1;
            }
            if hit.newest.trace_id.0 == label.trace_id {
                mrr += 1.0 / f64::from(rank);
                break;
            }
        }
    }
    println!("who MRR {}", mrr / labels.len() as f64);
}

async fn dump(scene: &Scene, texts: &str, links: &str) {
    let client = scene.bench.test.client().await;
    let rows = client.query("SELECT text_id, text, (SELECT count(*) FROM otel_trace_texts l WHERE l.text_id = t.text_id), e.embedding::text FROM otel_texts t LEFT JOIN otel_embeddings_1 e USING (text_id) ORDER BY 1", &[]).await.unwrap();
    let out: String = rows
        .iter()
        .map(|r| {
            format!(
                "{}\t{}\t{}\t{}\n",
                r.get::<_, i64>(0),
                r.get::<_, i64>(2),
                r.get::<_, String>(1),
                r.get::<_, String>(3)
            )
        })
        .collect();
    std::fs::write(texts, out).unwrap();
    let rows =
        client.query("SELECT text_id, replace(trace_id::text, '-', '') FROM otel_trace_texts", &[]).await.unwrap();
    let out: String = rows.iter().map(|r| format!("{}\t{}\n", r.get::<_, i64>(0), r.get::<_, String>(1))).collect();
    std::fs::write(links, out).unwrap();
}

pub(crate) async fn near(scene: &Scene, questions: &[&str], label: &str) {
    let client = scene.bench.test.client().await;
    let model = minilm();
    for q in questions {
        let v = model.embed(&[q]).unwrap().remove(0);
        let lit = format!("[{}]", v.iter().map(|x| x.to_string()).collect::<Vec<_>>().join(","));
        let r = client.query_one(&format!("SELECT 1 - (embedding <=> '{lit}'::halfvec), left(text, 100) FROM otel_embeddings_1 JOIN otel_texts USING (text_id) ORDER BY embedding <=> '{lit}'::halfvec LIMIT 1"), &[]).await.unwrap();
        let a = scene
            .queries()
            .search_traces(&oneiric_otel::query::SearchRequest {
                text: (*q).to_owned(),
                limit: 3,
                filter: Default::default(),
            })
            .await
            .unwrap();
        println!(
            "{label} {:.3} hits {} share {:.2} | {q} | {}",
            r.get::<_, f64>(0),
            a.hits.len(),
            a.hits.first().and_then(|h| h.word_share).unwrap_or(0.0),
            r.get::<_, String>(1)
        );
    }
}

const OFF: &[&str] = &[
    "how do I bake sourdough bread",
    "the migration of arctic terns",
    "best chess openings for beginners",
    "photosynthesis in desert plants",
    "history of the roman empire",
    "guitar chords for a love song",
    "quarterly marketing budget",
    "symptoms of the common cold",
    "a poem about the sea",
    "football world cup final score",
    "who painted the mona lisa",
    "kubernetes node disk pressure eviction",
    "gpu memory exhausted during training",
    "kafka consumer group rebalancing",
    "email newsletter bounced",
    "video transcoding failed",
    "oauth token for github expired",
];
const ON: &[&str] = &[
    "contact not found when booking",
    "verification code wrong at login",
    "price calculation failed",
    "train ticket reservation error",
    "could not cancel the order",
    "user could not log in",
    "no route between stations",
    "slow response from travel service",
    "the order service has a problem",
    "seat could not be assigned",
    "food service lookup failed",
    "captcha expired",
    "query trips between two cities",
    "rebooking a ticket",
    "nothing is stored for the contacts id",
];

async fn ndcg(scene: &Scene, dir: &std::path::Path) {
    let client = scene.bench.test.client().await;
    let file = std::fs::read_to_string(dir.join("trace-labels.tsv")).unwrap();
    let rel = |prefixes: &[&str]| -> std::collections::HashSet<String> {
        file.lines()
            .skip(1)
            .map(|l| l.split('\t').collect::<Vec<_>>())
            .filter(|c| prefixes.contains(&c[7]) && c[8] == "fault" && c[11] == "1")
            .map(|c| c[0].to_owned())
            .collect()
    };
    let mut links: std::collections::HashMap<i64, Vec<String>> = Default::default();
    let mut bytext: std::collections::HashMap<String, i64> = Default::default();
    for r in client.query("SELECT text_id, text, replace(trace_id::text, '-', '') FROM otel_trace_texts JOIN otel_texts USING (text_id)", &[]).await.unwrap() {
        links.entry(r.get(0)).or_default().push(r.get(2)); bytext.insert(r.get(1), r.get(0));
    }
    for (q, f) in [
        ("contact lookup returns nothing while booking", &["2023-01-29#01", "2023-01-29#02", "2023-01-29#03"][..]),
        ("exception while calculating ticket price for a journey", &["2023-01-29#07"][..]),
        ("login captcha could not be verified, code missing", &["2023-01-29#10", "2023-01-29#11", "2023-01-29#12"][..]),
        (
            "requests through the route service that became about two seconds slower",
            &["2023-01-30#14", "2023-01-30#15"][..],
        ),
    ] {
        let rel = rel(f);
        let good: std::collections::HashSet<i64> = links
            .iter()
            .filter(|(_, t)| t.iter().filter(|t| rel.contains(*t)).count() * 2 >= t.len())
            .map(|(i, _)| *i)
            .collect();
        let a = scene
            .queries()
            .search_traces(&oneiric_otel::query::SearchRequest {
                text: q.to_owned(),
                limit: 10,
                filter: Default::default(),
            })
            .await
            .unwrap();
        let gain = |i: usize| 1.0 / ((i + 2) as f64).log2();
        let dcg: f64 =
            a.hits.iter().enumerate().filter(|(_, h)| good.contains(&bytext[&h.text])).map(|(i, _)| gain(i)).sum();
        let ideal: f64 = (0..good.len().min(10)).map(gain).sum();
        println!("NDCG {:.3} ({} good) {q}", dcg / ideal, good.len());
        for h in a.hits.iter().take(4) {
            println!(
                "   {:.2} {:.2} {} {}",
                h.score,
                h.cosine.unwrap(),
                good.contains(&bytext[&h.text]),
                h.text.chars().take(220).collect::<String>()
            );
        }
        for g in good.iter().take(3) {
            println!(
                "   good: {}",
                bytext.iter().find(|(_, i)| *i == g).unwrap().0.chars().take(220).collect::<String>()
            );
        }
    }
}
