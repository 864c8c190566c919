//! The least that an application does to tell what it does.
//!
//!     cargo run -p oneiric-otel --features embedded --example manager

use oneiric_otel::manager::ObservabilityManager;
use oneiric_otel::settings::Settings;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let manager = ObservabilityManager::from_settings(&Settings::from_env("SHOP_OTEL_STORAGE__")?)?;
    manager.init().await?;
    manager.counter("payments", "{payment}", "Payments")?.add(1, [("outcome", "refused")]);
    manager.log_error("payment refused", [("order", 17)], None)?;
    manager.shutdown().await?;
    Ok(())
}
