//! Against a real server, several databases at once.

use super::*;

async fn exists(url: &str, name: &str) -> Result<bool> {
    let client = connect(url).await?;
    Ok(client.query_opt("select 1 from pg_database where datname = $1", &[&name]).await?.is_some())
}

#[tokio::test]
async fn every_test_gets_an_empty_database_that_goes_with_it() -> Result<()> {
    let (first, second) = tokio::join!(TestDatabase::create(), TestDatabase::create());
    assert_ne!(first.name(), second.name());
    let client = first.client().await;
    client.batch_execute("create schema otel; create table otel.t(x int); insert into t values (1), (2)").await?;
    assert_eq!(first.count("select count(*) from t").await, 2);
    assert_eq!(first.count("select max(x) from t").await, 2);
    assert_eq!(second.count("select count(*) from pg_namespace where nspname = 'otel'").await, 0);

    let (name, server) = (first.name().to_owned(), first.url_of("postgres"));
    assert!(exists(&server, &name).await?);
    // With the client still connected, and on this runtime's only thread.
    drop(first);
    assert!(!exists(&server, &name).await?);
    assert!(client.simple_query("select 1").await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_panicking_test_loses_its_database_too() -> Result<()> {
    let keeper = TestDatabase::create().await;
    let (sender, receiver) = std::sync::mpsc::channel();
    let panicked = tokio::spawn(async move {
        let database = TestDatabase::create().await;
        sender.send(database.name().to_owned()).ok();
        panic!("this is the panic of the test");
    })
    .await;
    assert!(panicked.is_err());
    assert!(!exists(&keeper.url_of("postgres"), &receiver.recv()?).await?);
    Ok(())
}

#[tokio::test]
async fn databases_of_dead_runs_are_swept_and_others_are_left() -> Result<()> {
    let keeper = TestDatabase::create().await;
    let server = keeper.url_of("postgres");
    let client = connect(&server).await?;
    let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
    let owner = Owner::of_process(child.id())?;
    // A number that no running test uses.
    let name = owner.database_name(u64::MAX);
    client.batch_execute(&format!("create database {name} template template0")).await?;
    sweep(&server).await?;
    assert!(exists(&server, &name).await?, "its owner lives");
    child.kill()?;
    child.wait()?;
    sweep(&server).await?;
    assert!(!exists(&server, &name).await?, "its owner is dead");
    assert!(exists(&server, keeper.name()).await?);
    Ok(())
}

#[test]
fn the_database_in_a_url_is_replaced() -> Result<()> {
    for (url, expected) in [
        ("postgresql://u:p@h:1/postgres", "postgresql://u:p@h:1/x"),
        ("postgres://h", "postgres://h/x"),
        ("postgresql://u@/postgres?host=/a/b&port=5", "postgresql://u@/x?host=/a/b&port=5"),
        ("postgresql://?host=/a/b", "postgresql:///x?host=/a/b"),
    ] {
        assert_eq!(replace_database(url, "x")?, expected);
    }
    assert!(replace_database("host=/a/b dbname=c", "x").is_err());
    Ok(())
}

#[tokio::test]
async fn each_version_has_its_server() -> Result<()> {
    let database = TestDatabase::create_on(Version::V18).await;
    let version = database.count("select current_setting('server_version_num')").await;
    assert_eq!(version / 10_000, 18);
    database.client().await.batch_execute("create extension vector").await?;
    Ok(())
}
