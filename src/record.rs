use crate::connection::Client; use crate::fault::Fault; use crate::upstream::pool::Lease;
pub struct Record {}
impl Record {
  pub fn begin(_: &Client<'_>) -> Self { Self{} }
  pub fn wait_for_pool(&mut self) {}
  pub fn connected(&mut self, _: &str, _: &Lease) {}
  pub fn answered(&mut self, _: u16) {}
  pub fn sent(&mut self, _: u64) {}
  pub fn uploaded(&mut self, _: u64) {}
  pub fn failed(&mut self, _: Fault) {}
  pub fn write(self, _: &Client<'_>) {}
}
