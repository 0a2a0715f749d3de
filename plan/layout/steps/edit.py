import pathlib,re
def sub(f,old,new,n=1):
    p=pathlib.Path(f); t=p.read_text(); assert t.count(old)>=1,(f,old[:80]); p.write_text(t.replace(old,new) if n==0 else t.replace(old,new,n))
def cut(f,start,end):
    """removes text from the first occurrence of `start` up to (not including) `end`; returns it"""
    p=pathlib.Path(f); t=p.read_text(); a=t.index(start); b=t.index(end,a+1) if end else len(t); p.write_text(t[:a]+t[b:]); return t[a:b]
def put(f,text): pathlib.Path(f).parent.mkdir(parents=True,exist_ok=True); pathlib.Path(f).write_text(text)
