//! Looks at the totals once a second, for the course of the last minute.
//!
//! In goes the time; out go points and totals to compare with. No worker is asked.

use std::sync::Arc;

use super::course::{BASE_STEPS, STEP};
use super::proxy::Proxy;
use super::stats::Window;
use crate::admin::units::lock;

/// Watches the totals for as long as ringway runs.
pub(super) async fn run(proxy: Arc<Proxy>) {
    let mut before = proxy.totals();
    let mut steps = BASE_STEPS;
    loop {
        if steps >= BASE_STEPS {
            steps = 0;
            lock(&proxy.course).base(proxy.named_totals());
        }
        tokio::time::sleep(STEP).await;
        steps += 1;
        let now = proxy.totals();
        let window = Window::between(&before, &now);
        lock(&proxy.course).point(&window);
        before = now;
    }
}
