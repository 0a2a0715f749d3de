import sys; sys.path[:0]=['plan/layout','plan/layout/steps']; from edit import *; from moveitems import move
import subprocess,repath
O='workflows/src/order/'
m=lambda s,d,names,h=None: move(O+s+'.rs',O+d+'.rs',names.split(),h)
m('unwind','stop','Stop Undo impl:Undo','//! Why an order ends before its time, and what is undone then.')
m('step','step_def','Mode Step impl:Step StepError SKIPPED not_by_hand skipped','//! What a step is: its name, its queue, what may end it early, and what an operator may say of it.')
m('operator','step_def','concerns is_about')
m('carrier','step_def','BROUGHT_UP')
m('waiting','cancel','fold_engine_cancel check_cancel until','//! Requests to cancel that end what is waited for.')
m('step','activity','LOCAL_ATTEMPT_MAX TASK_MAX HEARTBEAT_AFTER_PERCENT _ REMOTE_ATTEMPT_MAX RETRY_PAUSE_MIN RETRY_PAUSE_MAX RECORD_ATTEMPT_MAX RECORD_PAUSE record retries word wanted local remote must','//! One attempt: a local activity, or a remote one with a retry policy.')
m('recovery','restart','Unwritten impl:Unwritten restarts restart catch_up is_ahead read impl:OrderWorkflow','//! Restarting from the read model, where it has what this run of the workflow has not come to.')
m('hold','renewal','LAPSES LAPSED CAPTURED_ONCE ASKED_FOR','//! Why money is held anew.')
m('shortfall','operation','ShortfallOperation','//! Operations that wait to be carried out.')
m('fulfil','unwind','may_have_label')
m('carrier','unwind','void_rest')
m('fulfil','hand_over','roll_up settle hand_over','//! A shipment leaves: its goods are sold and its money is taken.')
# where each moved item is now
new={}
def to(mod,names,src):
    for n in names.split(): new[(src,n)]=mod
to('stop','Stop Undo','unwind'); to('step_def','Mode Step StepError SKIPPED not_by_hand skipped','step'); to('step_def','concerns is_about','operator'); to('step_def','BROUGHT_UP','carrier')
to('cancel','fold_engine_cancel check_cancel until','waiting'); to('activity','TASK_MAX record word wanted local remote must RETRY_PAUSE_MAX retries','step')
to('restart','Unwritten restarts restart catch_up read','recovery'); to('renewal','LAPSES LAPSED CAPTURED_ONCE ASKED_FOR','hold'); to('operation','ShortfallOperation','shortfall')
to('unwind','may_have_label','fulfil'); to('unwind','void_rest','carrier'); to('hand_over','roll_up settle hand_over','fulfil')
rules=[]
for (s,n),d in new.items():
    for p in ((s,n),('super',s,n)): rules.append((p,p[:-2]+(d,n)))
rules.sort(key=lambda r:-len(r[0]))
for f in sorted(pathlib.Path(O).glob('*.rs')):
    t=f.read_text(); u=repath.rewrite(t,rules)
    f.write_text(u)
# module declarations
t=pathlib.Path(O+'mod.rs').read_text()
mods='activity cancel hand_over operation renewal restart step_def stop'.split()
allm=sorted(set(re.findall(r'^mod (\w+);',t,re.M))|set(mods))
t=re.sub(r'(^mod \w+;\n)+','\n'.join(f'mod {x};' for x in allm)+'\n',t,count=1,flags=re.M)
pathlib.Path(O+'mod.rs').write_text(t)
# imports: what was beside an item and is elsewhere now
sys.path.insert(0,'plan/layout'); import circles
from simulate import items as its
where={}   # name -> module, by original file
orig={}
for (s,n),d in new.items(): orig.setdefault(s,{})[n]=d
dst_from={}   # dst -> original files
for s,d in [('unwind','stop'),('step','step_def'),('operator','step_def'),('carrier','step_def'),('waiting','cancel'),('step','activity'),('recovery','restart'),('hold','renewal'),('shortfall','operation'),('fulfil','unwind'),('carrier','unwind'),('fulfil','hand_over')]: dst_from.setdefault(d,set()).add(s)
siblings={f.stem for f in pathlib.Path(O).glob('*.rs')}-{'mod'}
defs={f.stem:{n for n,k,_,_ in its(circles.toks(f.read_text())) if k not in('use','mod','impl','other')} for f in pathlib.Path(O).glob('*.rs')}
for f in sorted(pathlib.Path(O).glob('*.rs')):
    if f.stem=='mod': continue
    text=f.read_text(); text=re.sub(rf'(?<![\w:.]){f.stem}::(?=[A-Za-z_])','',text) if f.stem in('unwind','step_def','activity','cancel','restart','hand_over') else text; toks=circles.toks(text)
    have=set();rest=[];i=0
    while i<len(toks):
        if toks[i]=='use':
            l,j=circles.parse_use(toks,i+1); have|={a for _,a in l}; i=j;continue
        rest.append(toks[i]); i+=1
    cand={}
    for s in {f.stem}|dst_from.get(f.stem,set()):
        for n,d in orig.get(s,{}).items(): cand[n]=d
        for n in defs.get(s,()): cand.setdefault(n,s)
    add=set()
    for k,x in enumerate(rest):
        prev=rest[k-1] if k else ''; nx=rest[k+1] if k+1<len(rest) else ''
        if prev in('::','.','fn','mod','let','mut') : continue
        if x in cand and x not in have and x not in defs[f.stem] and cand[x]!=f.stem and (x[0].isupper() or nx=='(' or nx in(',',')') and prev in('(',',') and x in('word','until')):
            add.add((cand[x],x))
        if nx=='::' and x in siblings and x not in have and x!=f.stem: add.add((x,None))
    if add:
        line='use super::{'+', '.join(sorted(f'{m}::{n}' if n else m for m,n in add))+'};\n'
        a=text.index('\nuse ')+1; text=text[:a]+line+text[a:]
    # drop what is not used any more (traits by their methods)
    toks=circles.toks(re.sub(r'(?m)^use [^;]*;','',text)); S=set(toks)
    pairs={(toks[k],toks[k+1]) for k in range(len(toks)-1) if not(k and toks[k-1] in('.','::'))}
    used=lambda a: ((a,'::') in pairs or (a,'(') in pairs and a=='hand_over') if a in siblings or a in('names',) else ((a,'(') in pairs if a in('note','go') else a in S)
    keep=lambda a: used(a) or a=='*' or (a=='FutureExt' and 'fuse' in S) or (a=='FusedFuture' and 'FusedFuture' in S)
    def prune(mm):
        l,_=circles.parse_use(circles.toks(mm.group(0)),1)
        l=[(tuple(p),None if a==p[-1] else a) for p,a in l if keep(a) and not(p[:2]==['super',f.stem] )]
        return ''.join('use '+u+';\n' for u in repath.tree(l)) if l else ''
    text=re.sub(r'(?m)^use [^;]*;\n',prune,text)
    f.write_text(text)
