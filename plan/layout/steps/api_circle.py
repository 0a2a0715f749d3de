import sys; sys.path[:0]=['plan/layout','plan/layout/steps']; from edit import *; from moveitems import move
A='api/src/'
# errors -> request context, not middleware
tl=cut(A+'middleware.rs','tokio::task_local! {','/// Where a trace id comes and goes.')
se=cut(A+'middleware.rs','/// A request under way.','/// What all requests share.')
put(A+'request_context.rs','''//! The request that a task answers: its trace id, and its place among those under way.

use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

'''+tl+se.replace('    place: Option<','    pub(crate) place: Option<').rstrip()+'\n')
sub(A+'middleware.rs','use crate::problem::Problem;','use crate::{\n    problem::Problem,\n    request_context::{SERVED, Served},\n};')
sub(A+'middleware.rs','use tokio::sync::{OwnedSemaphorePermit, Semaphore};','use tokio::sync::Semaphore;')
sub(A+'problem.rs','use crate::middleware::SERVED;','use crate::request_context::SERVED;')
sub(A+'idempotency.rs','use crate::{middleware::SERVED, problem::Problem, state::App};','use crate::{problem::Problem, request_context::SERVED, state::App};')
# state -> cached answers, which know no endpoint; how they are made and sent stays with the endpoints
fa=cut(A+'orders/place.rs','/// What the first request got.','impl FirstAnswer {')
fw=cut(A+'orders/place.rs','    /// What it takes in memory with its key, about, in bytes.','    fn created(self)')
ra=cut(A+'orders/read.rs','/// An order, ready to be sent.','impl Answer {')
rw=cut(A+'orders/read.rs','    /// What it takes in memory, about, in bytes.','    fn send(self')
kc=cut(A+'extract.rs','/// The longest idempotency key.','\n/// Rejects a body in any content coding')
def opened(t): return re.sub(r'(?m)^    (?!pub|///)(\w+: )',r'    pub(crate) \1',t)
put(A+'answers.rs','''//! Answers as the caches keep them. Making and sending them is the endpoints' work: [`crate::orders`].

use axum::{body::Bytes, http::HeaderValue};
use std::time::Instant;
use waybill_domain::ids::{MerchantId, OrderId};
use waybill_store::orders::Stamp;

'''+kc+'\n'+opened(fa)+'impl FirstAnswer {\n'+fw.rstrip()+'\n}\n\n'+opened(ra)+'impl Answer {\n'+rw.rstrip()+'\n}\n')
sub(A+'extract.rs','use crate::{\n','use crate::{\n    answers::KEY_CHARS_MAX,\n')
sub(A+'state.rs','use crate::{\n    cache::Cache,','use crate::{\n    answers::{Answer, FirstAnswer},\n    cache::Cache,')
sub(A+'state.rs','    orders::{place::FirstAnswer, read::Answer},\n','')
sub(A+'orders/place.rs','use crate::{\n    auth','use crate::{\n    answers::FirstAnswer,\n    auth')
sub(A+'orders/place.rs','    extract::{IdempotencyKey, JsonBody, KEY_CHARS_MAX},','    extract::{IdempotencyKey, JsonBody},')
sub(A+'orders/read.rs','use crate::{\n    auth','use crate::{\n    answers::Answer,\n    auth')
sub(A+'orders/read.rs','use waybill_domain::ids::{MerchantId, OrderId};','use waybill_domain::ids::OrderId;')
sub(A+'orders/read.rs','    orders::{OrderRecord, Stamp},','    orders::OrderRecord,')
# address <-> new_order: the collector of mistakes is neither's
N=A+'orders/new_order.rs'
ck=cut(N,'/// Collects what is wrong.','    fn line(&mut self, number')
tc=cut(N,'/// The longest text in an address','/// The most entries of metadata')
sub(N,'    fn metadata(&mut self','    fn metadata(&mut self')
t=pathlib.Path(N).read_text(); i=t.index('    fn line(&mut self') if '    fn line(&mut self' in t else -1
t=t[:i]+'impl Check {\n'+t[i:] ; pathlib.Path(N).write_text(t)
ck=ck.replace('struct Check(Vec<FieldError>)','struct Check(pub(super) Vec<FieldError>)').replace('    fn keep<','    pub(super) fn keep<')
put(A+'orders/check.rs','''//! Collects what is wrong with a body, so that it is said at once.

use crate::problem::FieldError;

'''+tc+ck.rstrip()+'\n}\n')
sub(N,'use super::{\n    address::RawAddress,\n','use super::{\n    address::RawAddress,\n    check::Check,\n')
sub(A+'orders/address.rs','use super::new_order::Check;','use super::check::Check;')
sub(A+'orders/mod.rs','pub(crate) mod cancel;\n','pub(crate) mod cancel;\nmod check;\n')
sub(A+'lib.rs','pub mod admin;\n','pub mod admin;\nmod answers;\n'); sub(A+'lib.rs','mod problem;\n','mod problem;\nmod request_context;\n')
sub(A+'orders/read.rs','    body::Bytes,\n','')
