set -eu
O=workflows/src/order
mkdir -p $O/checkout $O/shipping $O/adjust $O/step
git mv $O/forward.rs $O/checkout/mod.rs
git mv $O/fulfil.rs $O/shipping/mod.rs
git mv $O/carrier.rs $O/shipping/carrier.rs
git mv $O/hand_over.rs $O/shipping/hand_over.rs
git mv $O/capture.rs $O/shipping/capture.rs
git mv $O/lines.rs $O/adjust/lines.rs
git mv $O/shortfall.rs $O/adjust/shortfall.rs
git mv $O/step.rs $O/step/mod.rs
git mv $O/step_def.rs $O/step/definition.rs
for f in activity operator attention read_model restart cancel renewal operation stop messages; do git mv $O/$f.rs $O/step/$f.rs; done
git mv $O/changes.rs $O/step/versioning.rs
git mv $O/unwind.rs $O/compensation.rs
git mv $O/hold.rs $O/authorization.rs
cat > $O/adjust/mod.rs <<'R'
//! What changes an order under way: lines, or pieces of them, that are cancelled, and shipments that are short of items.

pub(crate) mod lines;
pub(crate) mod shortfall;
R
grep -rl 'pub(super)' $O | xargs sed -i 's/pub(super)/pub(crate)/g'
python3 - <<'P'
import sys; sys.path[:0]=['plan/layout','plan/layout/steps']; from edit import *; import repath
O='workflows/src/order/'
new={'forward':'checkout','fulfil':'shipping','carrier':'shipping::carrier','hand_over':'shipping::hand_over','capture':'shipping::capture','lines':'adjust::lines','shortfall':'adjust::shortfall','step_def':'step::definition','changes':'step::versioning','unwind':'compensation','hold':'authorization'}
for m in 'activity operator attention read_model restart cancel renewal operation stop messages'.split(): new[m]='step::'+m
keep=['step','waiting','recovery','checkout','shipping','adjust','compensation','authorization']
base=('crate','order')
rules=[(('super',a),base+tuple(b.split('::'))) for a,b in new.items()]+[(('super',a),base+(a,)) for a in ('step','waiting','recovery')]
items=['Ctx','OrderWorkflow','Refusal','go','note']
rules+=[(('super',i),base+(i,)) for i in items]
rules+=[((a,),(b,)) for a,b in (('forward','checkout'),('fulfil','shipping'),('step_def','definition'),('changes','versioning'),('unwind','compensation'),('hold','authorization'))]
rules.sort(key=lambda r:-len(r[0]))
for f in sorted(pathlib.Path(O).rglob('*.rs')):
    if f==pathlib.Path(O+'mod.rs'): continue
    t=f.read_text(); f.write_text(repath.rewrite(t,rules,False))
t=pathlib.Path(O+'mod.rs').read_text()
t=re.sub(r'(^mod \w+;\n)+','''// The steps, in their order: checkout, then shipping; what may change it meanwhile; and the ways back.
mod checkout;

mod shipping;

mod adjust;

mod authorization;

mod compensation;

mod recovery;

// How a step is run, and how anything is waited for.
mod step;

mod waiting;
''',t,count=1,flags=re.M)
mr=[((a,),tuple(b.split('::'))) for a,b in new.items()]
pathlib.Path(O+'mod.rs').write_text(t)
u=repath.rewrite(t,mr); pathlib.Path(O+'mod.rs').write_text(u)
sub(O+'shipping/mod.rs','\nuse ','\npub(crate) mod capture;\npub(crate) mod carrier;\npub(crate) mod hand_over;\n\nuse ')
sub(O+'step/mod.rs','\nuse ','\npub(crate) mod activity;\npub(crate) mod attention;\npub(crate) mod cancel;\npub(crate) mod definition;\npub(crate) mod messages;\npub(crate) mod operation;\npub(crate) mod operator;\npub(crate) mod read_model;\npub(crate) mod renewal;\npub(crate) mod restart;\npub(crate) mod stop;\npub(crate) mod versioning;\n\nuse ')
P
