"""Words before a full stop that does not end a sentence, in the commonest languages that abbreviate with one.

All are in lower case and without their last stop; a dotted one has no spaces ("z.b" is "z. B."). A text's language is
not known here, so a word is listed only if it hardly ends a sentence in any of them.
"""

# Something always follows: titles, and words for "for example", "street", "about".
NEVER_LAST = frozenset(
    # English
    "mr mrs ms mx dr drs prof st rev hon gov sen rep gen col capt cpt lt sgt maj cmdr adm pres supt messrs mt ft vs "
    "esp eg ie viz "
    # German
    "hr fr frl dipl ing vgl bzw ca inkl exkl zzgl ggf evtl sog insb bzgl geb hrsg nat phil jur med "
    # French
    "mme mmes mlle mlles mm mgr me av env boul cie ste chap cf c.-à-d ex "
    # Polish, Czech
    "inż hab św ks ul os im np tzn tj por zob ok prof doc godz woj pow gm m.in m.inn wg mgr lek płk kpt "
    "např tzv resp mudr judr phdr čp nám "
    # Russian, Ukrainian
    "ул пр просп пер пл проф акад доц им св гр см ср напр т.е т.к т.н т.о т.наз вул просп акад обл пгт "
    # Greek
    "δρ κα καθ βλ πρβλ δηλ λ.χ π.χ σια αγ "
    # Spanish, Portuguese, Italian
    "sr sra srta sres dra dres ud uds vd vds ee p.ej d dª fdo excmo sto sta ing lic arq "
    "sig sigg dott dott.ssa prof.ssa avv geom on ss p.es es ecc.mo vedi "
    # Scandinavian, Dutch, Turkish
    "t.ex t.eks f.eks bl.a d.v.s dvs mvh dhr mevr bijv m.b.t o.a bkz doç yrd av "
    # Hindi, Arabic
    "डॉ प्रो श्री सुश्री श्रीमती पं रु कु कि.मी बी सी डी ई एफ जी एच आई जे के एल एम एन ओ पी क्यू आर एस टी यू वी "
    "هـ".split()
)

# A number, a Roman numeral or a letter follows; anything else means that a sentence ended.
BEFORE_NUMBERS = frozenset(
    "no nos nr fig figs eq eqs p pp vol vols art arts sec secs ch chap ch tab tabl app apt s bd abb núm n° nº pag pág "
    "págs rys str tabl rozdz poz t cap capp cfr abs kap anm zif zit tel gl ed jan feb mar apr jun jul aug sep sept oct "
    "nov dec рис стр табл гл т ч п с кн тел № σελ εικ κεφ τόμ αρ αρθ πίν č čís sv obr tř s. ч. ст д кв kl sid".split()
)

# They may end a sentence. It continues if a lower-case letter, a digit or a bracket follows.
PERHAPS_LAST = frozenset(
    "etc al inc ltd co corp bros jr approx dept univ ave blvd rd ed eds min max hrs yrs usw usf u.a a.m p.m a.d b.c "
    "m.a b.a st.g o.ä u.ä u.s.w v.chr n.chr a.c d.c ecc ss aa.vv itd itp atd apod in r w tys mln mld zł gr "
    "т.д т.п и.т.д и.т.п др пр руб коп тыс млн млрд гг вв чел мин сек п.м κ.λπ κ.ά κτλ κλπ π.μ μ.μ μ.χ π.χ. "
    "ee.uu s.a s.l p.m a.m d.c vb vs. osv o.s.v m.m stb pág dól uds. cía hnos j.-c".split()
)

# They precede an ordinal number in German and the Scandinavian languages: "am 3. Mai", "der 2. Weltkrieg".
BEFORE_ORDINALS = frozenset(
    "am der die das dem den des im vom zum zur beim ab seit bis dieser diese dieses jeder jede sein seine seinen "
    "seinem ihr ihre ihren ihrem ein eine einen einem einer och og det".split()
)
MONTHS = frozenset(
    "januar jänner februar märz april mai juni juli august september oktober november dezember ledna února března "
    "dubna května června července srpna září října listopadu prosince".split()
)
TIMES = frozenset({"a.m", "p.m"})
# What follows a time of day within the sentence.
AFTER_TIMES = frozenset(
    "monday tuesday wednesday thursday friday saturday sunday est edt cst cdt mst pdt pst gmt utc cet cest january "
    "february march april may june july august september october november december".split()
)
# Words that begin sentences and are no names, so that "in the U.S. He left" and "vitamin C. It helps" are divided.
BEGINNERS = frozenset(
    "the he she it they we you in on at but and this that these those there however if when while for as so nobody "
    "how what why who where which do did does is are was were can could will would has have had then my your our "
    "er sie es wir der die das dies heute dann aber und doch wenn il elle ils elles le la les on mais ce cette "
    "el los ella ellos pero este esta".split()
)
# They stand before a name's initial, not before a thing that is numbered by a letter.
BEFORE_NAMES = frozenset("by and with von de und et y e of from & i и".split())
