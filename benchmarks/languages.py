"""Sentences in 26 languages, written for this project: what multilingual corpora of the benchmarks are made of.

Pure. `SENTENCES` has four sentences a language, by its ISO 639-1 code.
"""

SENTENCES = {
    "en": (
        "The bridge was closed last night because the river had risen.",
        "We need two more chairs before the guests arrive.",
        "She wrote down every word that the old man said.",
        "Nobody knows how long the repairs will take.",
    ),
    "de": (
        "Die Brücke wurde gestern Abend gesperrt, weil der Fluss gestiegen war.",
        "Wir brauchen noch zwei Stühle, bevor die Gäste kommen.",
        "Sie schrieb jedes Wort auf, das der alte Mann sagte.",
        "Niemand weiß, wie lange die Reparatur dauern wird.",
    ),
    "fr": (
        "Le pont a été fermé hier soir parce que la rivière avait monté.",
        "Il nous faut encore deux chaises avant l'arrivée des invités.",
        "Elle notait chaque mot que disait le vieil homme.",
        "Personne ne sait combien de temps dureront les travaux.",
    ),
    "es": (
        "El puente se cerró anoche porque el río había crecido.",
        "Necesitamos dos sillas más antes de que lleguen los invitados.",
        "Ella apuntaba cada palabra que decía el anciano.",
        "Nadie sabe cuánto tiempo durarán las obras.",
    ),
    "it": (
        "Il ponte è stato chiuso ieri sera perché il fiume era salito.",
        "Ci servono ancora due sedie prima che arrivino gli ospiti.",
        "Lei annotava ogni parola che diceva il vecchio.",
        "Nessuno sa quanto dureranno i lavori.",
    ),
    "pt": (
        "A ponte foi fechada ontem à noite porque o rio tinha subido.",
        "Precisamos de mais duas cadeiras antes que os convidados cheguem.",
        "Ela anotava cada palavra que o velho dizia.",
        "Ninguém sabe quanto tempo vão durar as obras.",
    ),
    "nl": (
        "De brug werd gisteravond afgesloten omdat de rivier gestegen was.",
        "We hebben nog twee stoelen nodig voordat de gasten komen.",
        "Ze schreef elk woord op dat de oude man zei.",
        "Niemand weet hoe lang de reparatie zal duren.",
    ),
    "sv": (
        "Bron stängdes i går kväll eftersom floden hade stigit.",
        "Vi behöver två stolar till innan gästerna kommer.",
        "Hon skrev ner varje ord som den gamle mannen sade.",
        "Ingen vet hur länge reparationen kommer att ta.",
    ),
    "pl": (
        "Most zamknięto wczoraj wieczorem, ponieważ rzeka wezbrała.",
        "Potrzebujemy jeszcze dwóch krzeseł, zanim przyjdą goście.",
        "Zapisywała każde słowo, które mówił stary człowiek.",
        "Nikt nie wie, jak długo potrwa naprawa.",
    ),
    "cs": (
        "Most byl včera večer uzavřen, protože řeka stoupla.",
        "Potřebujeme ještě dvě židle, než přijdou hosté.",
        "Zapisovala si každé slovo, které starý muž řekl.",
        "Nikdo neví, jak dlouho bude oprava trvat.",
    ),
    "hu": (
        "A hidat tegnap este lezárták, mert a folyó megáradt.",
        "Még két székre van szükségünk, mielőtt megjönnek a vendégek.",
        "Minden szót leírt, amit az öregember mondott.",
        "Senki sem tudja, meddig tart majd a javítás.",
    ),
    "fi": (
        "Silta suljettiin eilen illalla, koska joki oli noussut.",
        "Tarvitsemme vielä kaksi tuolia ennen kuin vieraat saapuvat.",
        "Hän kirjoitti muistiin jokaisen sanan, jonka vanha mies sanoi.",
        "Kukaan ei tiedä, kuinka kauan korjaus kestää.",
    ),
    "tr": (
        "Nehir yükseldiği için köprü dün gece kapatıldı.",
        "Misafirler gelmeden önce iki sandalyeye daha ihtiyacımız var.",
        "Yaşlı adamın söylediği her kelimeyi not aldı.",
        "Onarımın ne kadar süreceğini kimse bilmiyor.",
    ),
    "vi": (
        "Cây cầu đã bị đóng tối qua vì nước sông dâng cao.",
        "Chúng tôi cần thêm hai cái ghế trước khi khách đến.",
        "Cô ấy ghi lại từng lời mà ông cụ nói.",
        "Không ai biết việc sửa chữa sẽ kéo dài bao lâu.",
    ),
    "ru": (
        "Мост закрыли вчера вечером, потому что река поднялась.",
        "Нам нужны ещё два стула, прежде чем придут гости.",
        "Она записывала каждое слово, которое говорил старик.",
        "Никто не знает, сколько времени займёт ремонт.",
    ),
    "uk": (
        "Міст закрили вчора ввечері, бо річка піднялася.",
        "Нам потрібні ще два стільці, перш ніж прийдуть гості.",
        "Вона записувала кожне слово, яке казав старий чоловік.",
        "Ніхто не знає, скільки часу триватиме ремонт.",
    ),
    "el": (
        "Η γέφυρα έκλεισε χθες το βράδυ επειδή το ποτάμι είχε ανέβει.",
        "Χρειαζόμαστε άλλες δύο καρέκλες πριν έρθουν οι καλεσμένοι.",
        "Εκείνη έγραφε κάθε λέξη που έλεγε ο γέρος.",
        "Κανείς δεν ξέρει πόσο θα κρατήσει η επισκευή.",
    ),
    "ar": (
        "أُغلق الجسر مساء أمس لأن مياه النهر ارتفعت.",
        "نحتاج إلى كرسيين آخرين قبل وصول الضيوف.",
        "كتبت كل كلمة قالها الرجل العجوز.",
        "لا أحد يعرف كم ستستغرق أعمال الإصلاح.",
    ),
    "fa": (
        "پل دیشب بسته شد چون آب رودخانه بالا آمده بود.",
        "پیش از آمدن مهمان‌ها به دو صندلی دیگر نیاز داریم.",
        "او هر کلمه‌ای را که پیرمرد می‌گفت یادداشت می‌کرد.",
        "هیچ‌کس نمی‌داند تعمیر چقدر طول می‌کشد.",
    ),
    "he": (
        "הגשר נסגר אתמול בערב כי הנהר עלה.",
        "אנחנו צריכים עוד שני כיסאות לפני שהאורחים יגיעו.",
        "היא רשמה כל מילה שהזקן אמר.",
        "אף אחד לא יודע כמה זמן יימשך התיקון.",
    ),
    "hi": (
        "नदी का पानी बढ़ने के कारण कल रात पुल बंद कर दिया गया।",
        "मेहमानों के आने से पहले हमें दो कुर्सियाँ और चाहिए।",
        "वह बूढ़े आदमी की कही हर बात लिखती गई।",
        "कोई नहीं जानता कि मरम्मत में कितना समय लगेगा।",
    ),
    "bn": (
        "নদীর জল বেড়ে যাওয়ায় গত রাতে সেতুটি বন্ধ করা হয়েছে।",
        "অতিথিরা আসার আগে আমাদের আরও দুটি চেয়ার দরকার।",
        "বৃদ্ধ লোকটির বলা প্রতিটি কথা সে লিখে রাখল।",
        "মেরামত করতে কত সময় লাগবে কেউ জানে না।",
    ),
    "th": (
        "สะพานถูกปิดเมื่อคืนนี้เพราะน้ำในแม่น้ำสูงขึ้น",
        "เราต้องการเก้าอี้อีกสองตัวก่อนที่แขกจะมาถึง",
        "เธอจดทุกคำที่ชายชราพูด",
        "ไม่มีใครรู้ว่าการซ่อมจะใช้เวลานานเท่าไร",
    ),
    "zh": (
        "因为河水上涨，那座桥昨晚被关闭了。",
        "客人到来之前，我们还需要两把椅子。",
        "她把老人说的每一句话都记了下来。",
        "没有人知道修理需要多长时间。",
    ),
    "ja": (
        "川の水かさが増したため、橋は昨夜閉鎖されました。",
        "お客さんが来る前に椅子があと二つ必要です。",
        "彼女は老人の言ったことをすべて書き留めた。",
        "修理にどのくらいかかるかは誰にも分からない。",
    ),
    "ko": (
        "강물이 불어나서 어젯밤에 다리가 폐쇄되었다.",
        "손님들이 오기 전에 의자가 두 개 더 필요합니다.",
        "그녀는 노인이 한 말을 모두 받아 적었다.",
        "수리가 얼마나 걸릴지 아무도 모른다.",
    ),
}
