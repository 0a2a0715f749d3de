"""No two files of a crate may import each other, however long the way round: a file can then be read and changed with
those below it alone. Reads the sources; a parent that wires up its children (`mod x; x::run()`) is no circle, a child that
uses its parent is an edge, and tests are left out. Unlike `.ci/arrows.py` nothing else checks this: rustc allows circles."""
import re, sys, pathlib, collections, json

TOK = re.compile(r'''//[^\n]*|/\*.*?\*/|(?P<s>b?r(?P<h>\#*)".*?"(?P=h)|b?"(?:\\.|[^"\\])*")|(?P<c>b?'(?:\\.[^']*|[^\\'])')|(?P<l>'[A-Za-z_]\w*)|(?P<id>[A-Za-z_]\w*)|(?P<pp>::)|(?P<p>[^\s])''', re.S)

def toks(text):
    out=[]
    for m in TOK.finditer(text):
        if m.group('s') or m.group('c'): out.append('""')
        elif m.group('l'): out.append("'l")
        elif m.group('id') or m.group('pp') or m.group('p'): out.append(m.group(0))
    return out

def strip_tests(t):
    out=[];i=0
    while i<len(t):
        if t[i]=='#' and i+1<len(t) and t[i+1]=='[':
            # read attr
            d=0;j=i+1
            while True:
                if t[j]=='[': d+=1
                if t[j]==']':
                    d-=1
                    if d==0: break
                j+=1
            attr=t[i:j+1]
            if attr[2:6]==['cfg','(','test',')']:
                # skip following item: further attrs then until ; or {...}
                k=j+1
                d=0
                while k<len(t):
                    if t[k] in '({[' and len(t[k])==1:
                        d+=1
                    elif t[k] in (')','}',']'):
                        d-=1
                        if d==0 and t[k]=='}': k+=1;break
                    elif t[k]==';' and d==0: k+=1;break
                    k+=1
                i=k; continue
            out+=attr; i=j+1; continue
        out.append(t[i]); i+=1
    return out

def parse_use(t,i):
    """t[i] is after 'use'. yields (path list, alias) ; returns (list, next)"""
    res=[]
    def tree(i,prefix):
        path=list(prefix)
        while True:
            if t[i]=='::': i+=1; continue
            if t[i]=='{':
                i+=1
                while t[i]!='}':
                    i=tree(i,path)
                    if t[i]==',': i+=1
                return i+1
            if t[i]=='*':
                res.append((path+['*'],'*')); return i+1
            path.append(t[i]); i+=1
            if t[i]=='::': continue
            alias=path[-1]
            if t[i]=='as': alias=t[i+1]; i+=2
            if path[-1]=='self': path=path[:-1]; alias=path[-1] if alias=='self' else alias
            res.append((path,alias)); return i
    i=tree(i,[])
    return res,i

class Crate:
    def __init__(s,root,ownname,main='lib.rs',src='src'):
        s.files={}   # modpath tuple -> Path
        s.tok={}
        s.root=pathlib.Path(root); s.own=ownname
        s.testmods=set()
        base=s.root/src
        s.load((),base/main,base)
    def load(s,mp,f,dirn):
        s.files[mp]=f
        t=strip_tests(toks(f.read_text()))
        s.tok[mp]=t
        i=0;depth=0
        while i<len(t)-2:
            if t[i]=='mod' and t[i+2]==';' :
                n=t[i+1]
                for cand,d in ((dirn/f'{n}.rs',dirn/n),(dirn/n/'mod.rs',dirn/n)):
                    if cand.exists():
                        s.load(mp+(n,),cand,d);break
            i+=1
    def analyse(s,follow=True):
        s.reexp=collections.defaultdict(dict); s.glob=collections.defaultdict(list)
        uses={}
        for mp,t in s.tok.items():
            u=[];i=0;spans=[]
            while i<len(t):
                if t[i]=='use' and (i==0 or t[i-1] not in ('.',)) :
                    lst,j=parse_use(t,i+1)
                    pub= i>0 and (t[i-1]=='pub' or (t[i-1]==')' ))
                    u+= [(p,a,pub) for p,a in lst]; spans.append((i,j)); i=j
                else: i+=1
            uses[mp]=(u,spans)
            for p,a,pub in u:
                ap=s.absol(mp,p)
                if ap is None: continue
                if a=='*': s.glob[mp].append(ap[:-1])
                else: s.reexp[mp][a]=ap
        s.edges=collections.defaultdict(lambda: collections.defaultdict(set))
        for mp,(u,spans) in uses.items():
            t=s.tok[mp]
            for p,a,pub in u:
                ap=s.absol(mp,p)
                if ap is not None: s.add(mp,ap,follow)
            skip=set()
            for a,b in spans: skip.update(range(a,b))
            i=0
            while i<len(t):
                if i in skip or not re.match(r'[A-Za-z_]\w*$',t[i]) or (i and t[i-1] in ('::','.')):
                    i+=1;continue
                j=i;path=[t[i]]
                while j+2<len(t) and t[j+1]=='::' and re.match(r'[A-Za-z_]\w*$',t[j+2]): path.append(t[j+2]); j+=2
                if len(path)>1:
                    if path[0] in ('crate','super','self') or path[0]==s.own or mp+(path[0],) in s.files:
                        ap=s.absol(mp,path)
                        if ap is not None: s.add(mp,ap,follow)
                    elif path[0] in s.reexp[mp]:
                        s.add(mp,s.reexp[mp][path[0]]+tuple(path[1:]),follow)
                i=j+1
    def absol(s,mp,p):
        p=list(p)
        if not p: return None
        if p[0]=='crate' or p[0]==s.own: return tuple(p[1:])
        if p[0]=='self': return mp+tuple(p[1:])
        if p[0]=='super':
            base=mp
            while p and p[0]=='super': base=base[:-1]; p=p[1:]
            return base+tuple(p)
        if mp+(p[0],) in s.files: return mp+tuple(p)
        return None
    def resolve(s,ap,follow,depth=0):
        """module file that defines ap, and the item"""
        m=();k=0
        while k<len(ap) and m+(ap[k],) in s.files: m+=(ap[k],);k+=1
        rest=ap[k:]
        if follow and rest and depth<6:
            n=rest[0]
            if n in s.reexp[m] and s.reexp[m][n]!=ap:
                # only follow if target is in crate
                return s.resolve(s.reexp[m][n]+tuple(rest[1:]),follow,depth+1)
            for g in s.glob[m]:
                pass
        return m,(rest[0] if rest else '(module)')
    def add(s,mp,ap,follow):
        m,item=s.resolve(ap,follow)
        if m!=mp: s.edges[mp][m].add(item)

def scc(nodes,edges):
    idx={};low={};st=[];on=set();out=[];n=[0]
    sys.setrecursionlimit(10000)
    def go(v):
        idx[v]=low[v]=n[0];n[0]+=1;st.append(v);on.add(v)
        for w in edges.get(v,()):
            if w not in idx: go(w); low[v]=min(low[v],low[w])
            elif w in on: low[v]=min(low[v],idx[w])
        if low[v]==idx[v]:
            c=[]
            while True:
                w=st.pop();on.discard(w);c.append(w)
                if w==v:break
            if len(c)>1: out.append(sorted(c))
    for v in nodes:
        if v not in idx: go(v)
    return out


def main():
    import tomllib
    wrong = files = 0
    for member in tomllib.loads(pathlib.Path("Cargo.toml").read_text())["workspace"]["members"]:
        own = "waybill_" + member
        for src, root in (("src", "lib.rs"), ("src", "main.rs"), ("it", "main.rs")):
            if not (pathlib.Path(member) / src / root).exists():
                continue
            crate = Crate(member, own, root, src)
            crate.analyse()
            files += len(crate.files)
            edges = {a: [b for b in d if not (len(b) > len(a) and b[: len(a)] == a)] for a, d in crate.edges.items()}
            for circle in scc(list(crate.files), edges):
                wrong += 1
                name = lambda m: "::".join(m) or "crate"
                print(f"{member}: {len(circle)} files import each other in a circle", file=sys.stderr)
                for a in circle:
                    for b in edges.get(a, ()):
                        if b in circle:
                            print(f"  {name(a)} -> {name(b)}: {', '.join(sorted(crate.edges[a][b]))}", file=sys.stderr)
    print(f"{files} files, {wrong} circles")
    sys.exit(bool(wrong))


main()
