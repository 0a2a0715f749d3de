"""Static check: every crate::/super::/self::/waybill_x:: path names something that exists. verify.py ROOT"""
import sys,re,pathlib,collections,tomllib; sys.path.insert(0,'plan/layout')
import circles
from simulate import items
root=pathlib.Path(sys.argv[1])
ws=tomllib.load(open(root/'Cargo.toml','rb'))
class C2(circles.Crate):
    def load(s,mp,f,dirn):
        s.files[mp]=f
        t=circles.toks(f.read_text()); s.tok[mp]=t     # tests kept
        i=0
        while i<len(t)-2:
            if t[i]=='mod' and t[i+2]==';':
                n=t[i+1]; ok=False
                for cand,d in ((dirn/f'{n}.rs',dirn/n),(dirn/n/'mod.rs',dirn/n)):
                    if cand.exists():
                        if (mp+(n,)) not in s.files: s.load(mp+(n,),cand,d)
                        ok=True;break
                if not ok: print('NO FILE for mod',n,'in',f)
            i+=1
crates={}
for m in ws['workspace']['members']:
    t=tomllib.load(open(root/m/'Cargo.toml','rb'))
    own=t['package']['name'].replace('-','_')
    if (root/m/'src/lib.rs').exists(): crates[own]=C2(root/m,own,'lib.rs')
    if (root/m/'src/main.rs').exists(): crates[own+'#bin']=C2(root/m,own if own not in crates else '#none','main.rs')
    for tt in t.get('test',[]):
        p=pathlib.Path(tt['path']); crates[own+'#test_'+tt['name']]=C2(root/m,'#none',p.name,str(p.parent))
    if (root/m/'tests').exists():
        for p in (root/m/'tests').iterdir():
            if (p/'main.rs').exists(): crates[own+'#t_'+p.name]=C2(root/m,'#none','main.rs','tests/'+p.name)
bad=0
for c in crates.values():
    c.names=collections.defaultdict(dict); c.globs=collections.defaultdict(list)
    for mp,t in c.tok.items():
        for name,kind,tk,vis in items(t):
            if kind=='use':
                k=tk.index('use'); lst,_=circles.parse_use(tk,k+1)
                for p,a in lst:
                    if a=='*': c.globs[mp].append(p[:-1])
                    else: c.names[mp][a]=('use',p,vis)
            elif kind=='mod':
                c.names[mp][name]=('mod',None,vis)
            elif kind=='other' : 
                for q in range(len(tk)-1):
                    if tk[q]=='static': c.names[mp][tk[q+1]]=('item',None,'pub(crate)')
            elif kind!='impl': c.names[mp][name]=('item',None,vis)
        # macro generated modules etc are not known
def find(c,mp,path,depth=0):
    """None if fine, else message"""
    m=mp;i=0
    while i<len(path):
        n=path[i]
        if m+(n,) in c.files: m=m+(n,); i+=1; continue
        if n=='*': return None
        d=c.names[m].get(n)
        if c.own=='waybill_domain': return None  # its types are written by macros
        if d is None:
            for g in c.globs[m]: return None  # glob: unknown
            if any('activities' in str(x) or 'workflow' in str(x) for x in c.tok[m][:0]): return None
            return f'{"::".join(m) or "crate"} has no {n}'
        if d[0]=='use' and depth<8:
            return check(c,m,list(d[1])+list(path[i+1:]),depth+1)
        return None
    return None
def check(c,mp,p,depth=0):
    if p[0]=='crate': return find(c,(),p[1:],depth)
    if p[0]=='self': return find(c,mp,p[1:],depth)
    if p[0]=='super':
        b=mp;q=list(p)
        while q and q[0]=='super': b=b[:-1];q=q[1:]
        return find(c,b,q,depth) if q else None
    if p[0] in crates: return find(crates[p[0]],(),p[1:],depth)
    if p[0].startswith('waybill_'): return f'no crate {p[0]}'
    if mp+(p[0],) in c.files: return find(c,mp,p,depth)
    return None
for cn,c in crates.items():
    for mp,t in c.tok.items():
        # inline test modules shift super by one: track depth of `mod x {`
        i=0; stack=[]; depth=0; cur=mp
        def rep(p,msg):
            global bad; bad+=1; print(c.files[mp],'::'.join(p),'->',msg)
        while i<len(t):
            if t[i]=='mod' and i+2<len(t) and t[i+2]=='{': stack.append(depth); depth+=1; i+=3; continue
            if t[i]=='{': depth+=1
            if t[i]=='}':
                depth-=1
                if stack and depth==stack[-1]: stack.pop()
            inl=len(stack)
            if t[i]=='use' and (i==0 or t[i-1]!='.'):
                lst,j=circles.parse_use(t,i+1)
                for p,a in lst:
                    q=list(p)
                    if inl and q[0]=='super': q=q[1:] or ['*']; 
                    if inl and q and q[0] not in('crate','super') and p[0]=='super': q=['self']+q
                    if q and q[-1]=='*': q=q[:-1]
                    if not q: continue
                    msg=check(c,mp,q)
                    if msg: rep(p,msg)
                i=j; continue
            if re.match(r'[A-Za-z_]\w*$',t[i]) and not(i and t[i-1] in('::','.')):
                j=i;path=[t[i]]
                while j+2<len(t) and t[j+1]=='::' and re.match(r'[A-Za-z_]\w*$',t[j+2]): path.append(t[j+2]);j+=2
                if len(path)>1 and (path[0] in('crate','super') or path[0].startswith('waybill_')):
                    q=list(path)
                    if inl and q[0]=='super': q=['self']+q[1:]
                    msg=check(c,mp,q)
                    if msg: rep(path,msg)
                elif len(path)>1 and path[0] in c.names[mp] and c.names[mp][path[0]][0]=='use':
                    u=list(c.names[mp][path[0]][1])
                    msg=check(c,mp,u+path[1:])
                    if msg: rep(path,msg)
                i=j
            i+=1
print(len(crates),'targets,',sum(len(c.files) for c in crates.values()),'files,',bad,'bad paths')
