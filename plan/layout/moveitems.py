"""Moves top-level items (with their docs and attributes) between files. moveitems.py SRC DST NAME...
NAME: item name, or `impl:TYPE` / `impl:TYPE#2` (nth inherent impl). DST is created with SRC's `use` lines when it does not exist
(unused ones are what the compiler then reports; `cargo fix` removes them). Private items become `pub(super)`."""
import re,sys,pathlib
TOK=re.compile(r'''//[^\n]*|/\*.*?\*/|b?r(?P<h>\#*)".*?"(?P=h)|b?"(?:\\.|[^"\\])*"|b?'(?:\\.[^']*|[^\\'])'|'[A-Za-z_]\w*|[A-Za-z_]\w*|::|[^\s]''',re.S)
KW={'fn','struct','enum','const','static','type','trait','union'}
def items(text):
    ts=[(m.group(0),m.start(),m.end()) for m in TOK.finditer(text)]
    out=[];i=0;n=len(ts)
    while i<n:
        s=i
        while i<n and (ts[i][0].startswith('//') or ts[i][0].startswith('/*') or ts[i][0]=='#'):
            if ts[i][0]=='#':
                j=i+1
                if ts[j][0]=='!': j+=1
                d=0
                while True:
                    if ts[j][0]=='[':d+=1
                    if ts[j][0]==']':
                        d-=1
                        if d==0:break
                    j+=1
                i=j+1
            else:
                if ts[i][0].startswith('//!'): s=i+1
                # a comment that is not directly above belongs to nobody: keep with what follows
                i+=1
        if i>=n: break
        v=i
        if ts[i][0]=='pub':
            i+=1
            if ts[i][0]=='(':
                while ts[i][0]!=')': i+=1
                i+=1
        j=i
        while ts[j][0] in('async','unsafe') or (ts[j][0]=='const' and ts[j+1][0] in('fn','async')): j+=1
        k=ts[j][0]
        if k in KW: kind=k;name=ts[j+1][0]
        elif k=='impl':
            q=j+1;h=''
            while ts[q][0]!='{': h+=ts[q][0]+' ';q+=1
            kind='impl';name='impl:'+h.strip().replace(' ','')
        elif k in('use','mod'): kind=k;name=k+str(j)
        elif k=='macro_rules': kind=k;name=ts[j+2][0]
        else: kind='other';name='other'+str(j)
        d=0;q=j
        while q<n:
            x=ts[q][0]
            if x in('(','[','{'):d+=1
            elif x in(')',']','}'):
                d-=1
                if d==0 and x=='}' and kind not in('use','const','static','type'): q+=1;break
            elif x==';' and d==0: q+=1;break
            q+=1
        out.append((name,kind,ts[s][1],ts[q-1][2],ts[v][1],ts[v][0])); i=q
    return out
def move(src,dst,names,header=None):
    src,dst=pathlib.Path(src),pathlib.Path(dst)
    t=src.read_text(); its=items(t); cnt={};pick=[]
    for it in its:
        nm=it[0]
        if it[1]=='impl':
            cnt[nm]=cnt.get(nm,0)+1
            keys={nm+f'#{cnt[nm]}'}|({nm} if cnt[nm]==1 else set())
        else: keys={nm}
        hit=keys&set(names)
        if hit: pick.append(it); [names.remove(h) for h in list(hit)]
    assert not names,(src,names)
    out=[]
    for nm,kind,a,b,v,first in pick:
        txt=t[a:b]
        if first!='pub' and kind!='impl' and nm!='_': txt=t[a:v]+'pub(super) '+t[v:b]
        out.append(txt)
    uses=[t[a:b] for nm,kind,a,b,v,f in its if kind=='use' and t[v:v+3]!='pub']
    for nm,kind,a,b,v,f in sorted(pick,key=lambda x:-x[2]):
        e=b
        while e<len(t) and t[e]=='\n': e+=1
        t=t[:a]+t[e:]
    src.write_text(t.rstrip()+'\n')
    if dst.exists(): dst.write_text(dst.read_text().rstrip()+'\n\n'+'\n\n'.join(out)+'\n')
    else:
        dst.parent.mkdir(parents=True,exist_ok=True)
        dst.write_text((header or '//! TODO')+'\n\n'+'\n'.join(uses)+'\n\n'+'\n\n'.join(out)+'\n')
if __name__=='__main__': move(sys.argv[1],sys.argv[2],sys.argv[3:])
