"""What is said in the demo calls, by whom, when, and what became of each call. Nobody here exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from recorder.demo import encoding
from recorder.demo.encoding import Coding
from recorder.demo.speech import Voice

Party = Literal["agent", "customer"]
Language = Literal["fi", "sv", "en"]
Fate = Literal["hold", "restriction", "objection"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One party's turn. ``card`` marks a turn with card data, which is muted."""

    party: Party
    text: str
    card: bool = False


@dataclass(frozen=True, slots=True)
class DemoCustomer:
    """A customer record as a CRM would deliver it."""

    number: str
    name: str
    form_of_address: str
    phone: str
    email: str
    address: str
    language: Language
    gender: str


@dataclass(frozen=True, slots=True)
class DemoCall:
    """One call.

    Attributes:
        external_id: the telephony system's id of it.
        age_days: how long before the day of the first start it took place.
        clock: local time of day, hours and minutes.
        customer: index into :data:`CUSTOMERS`; None for a caller whom the register does not know.
        fate: what was decided about the caller or the call afterwards.
        call: the telephony system's id of the whole call and this recording's place in it, where a recording
            is only a part.
        transferred_from: its id of the call out of which this one came by an attended transfer.
    """

    external_id: str
    language: Language
    age_days: int
    clock: tuple[int, int]
    coding: Coding
    agent: str
    queue: str
    customer: int | None
    turns: tuple[Turn, ...]
    direction: Literal["inbound", "outbound"] = "inbound"
    tags: tuple[str, ...] = ()
    service_events: tuple[tuple[str, str], ...] = ()
    fate: Fate | None = None
    stranger_phone: str | None = None
    call: tuple[str, int] | None = None
    transferred_from: str | None = None


def _said(*lines: str) -> tuple[Turn, ...]:
    """Turns from lines: ``A`` speaks for the agent, ``C`` for the customer, ``C*`` says card data."""
    turns = []
    for line in lines:
        who, text = line.split(" ", 1)
        turns.append(Turn("agent" if who == "A" else "customer", text, card=who == "C*"))
    return tuple(turns)


# Telephone numbers: Swedish ones from the series that PTS keeps for fiction (070-174 06 05 to 99); Finland
# keeps none, so these are well-formed numbers of invented people.
CUSTOMERS: Final[tuple[DemoCustomer, ...]] = (
    DemoCustomer(
        "100201", "Aino Esimerkki", "rouva", "+358401110001", "aino@example.fi",
        "Mallikatu 1, 00100 Helsinki", "fi", "female",
    ),
    DemoCustomer(
        "100202", "Gustav Exempelsson", "herr", "+46701740605", "gustav@example.se",
        "Provgatan 2, 111 20 Stockholm", "sv", "male",
    ),
    DemoCustomer(
        "100203", "Mary Sample", "Ms", "+358401110003", "mary@example.com",
        "Mallikatu 3, 33100 Tampere", "en", "female",
    ),
    DemoCustomer(
        "100204", "Eero Malli", "herra", "+358401110004", "eero@example.fi",
        "Mallikatu 4, 20100 Turku", "fi", "male",
    ),
    DemoCustomer(
        "100205", "Astrid Provberg", "fru", "+46701740606", "astrid@example.se",
        "Provgatan 5, 411 01 Göteborg", "sv", "female",
    ),
    DemoCustomer(
        "100206", "John Specimen", "Mr", "+358401110006", "john@example.com",
        "Mallikatu 6, 90100 Oulu", "en", "male",
    ),
    DemoCustomer(
        "100207", "Helmi Näyte", "rouva", "+358401110007", "helmi@example.fi",
        "Mallikatu 7, 40100 Jyväskylä", "fi", "female",
    ),
    DemoCustomer(
        "100208", "Sven Testlund", "herr", "+46701740607", "sven@example.se",
        "Provgatan 8, 211 20 Malmö", "sv", "male",
    ),
    DemoCustomer(
        "100209", "Veikko Koetus", "herra", "+358401110009", "veikko@example.fi",
        "Mallikatu 9, 70100 Kuopio", "fi", "male",
    ),
    DemoCustomer(
        "100210", "Ingrid Modellström", "fru", "+46701740608", "ingrid@example.se",
        "Provgatan 10, 753 10 Uppsala", "sv", "female",
    ),
)  # fmt: skip

_FI_WOMAN, _FI_MAN = Voice("fi+f2", 150, 55), Voice("fi+m3", 145, 42)
_SV_WOMAN, _SV_MAN = Voice("sv+f2", 155, 58), Voice("sv+m3", 150, 42)
_EN_WOMAN, _EN_MAN = Voice("en+f3", 155, 56), Voice("en+m3", 150, 40)
_VOICES: Final[dict[tuple[Language, Party, str], Voice]] = {
    ("fi", "agent", "female"): _FI_MAN,
    ("fi", "customer", "female"): _FI_WOMAN,
    ("fi", "agent", "male"): _FI_WOMAN,
    ("fi", "customer", "male"): _FI_MAN,
    ("sv", "agent", "female"): _SV_MAN,
    ("sv", "customer", "female"): _SV_WOMAN,
    ("sv", "agent", "male"): _SV_WOMAN,
    ("sv", "customer", "male"): _SV_MAN,
    ("en", "agent", "female"): _EN_MAN,
    ("en", "customer", "female"): _EN_WOMAN,
    ("en", "agent", "male"): _EN_WOMAN,
    ("en", "customer", "male"): _EN_MAN,
}


def voice_of(call: DemoCall, party: Party) -> Voice:
    """Return the voice of a party: the two never sound alike."""
    gender = "male" if call.customer is None else CUSTOMERS[call.customer].gender
    return _VOICES[call.language, party, gender]


CALLS: Final[tuple[DemoCall, ...]] = (
    DemoCall(
        "demo-0001", "fi", 2, (9, 14), encoding.WAV_PCM16, "A-17", "orders", 0,
        _said(
            "A Hyvää huomenta, Esimerkin asiakaspalvelu, Mikko puhelimessa. Tämä puhelu tallennetaan.",
            "C Huomenta. Tilasin viime viikolla pöytävalaisimen, eikä se ole vieläkään tullut.",
            "A Katsotaanpa. Saisinko asiakasnumeronne?",
            "C Se on yksi nolla nolla, kaksi nolla yksi.",
            "A Kiitos. Paketti lähti varastolta eilen ja on noudettavissa huomenna iltapäivällä.",
            "C Hyvä juttu. Saanko siitä viestin puhelimeen?",
            "A Kyllä, tekstiviesti tulee heti, kun paketti on perillä.",
            "C Kiitos paljon, hyvää päivänjatkoa!",
            "A Kiitos samoin, kuulemiin.",
        ),
        tags=("delivery",), service_events=(("order", "O-58211"),),
    ),
    DemoCall(
        "demo-0002", "sv", 5, (13, 2), encoding.WAV_MULAW, "A-21", "invoicing", 1,
        _said(
            "A Välkommen till Exempels kundtjänst, du talar med Anna. Samtalet spelas in.",
            "C Hej, jag har fått samma faktura två gånger den här månaden.",
            "A Det låter tråkigt. Vilket belopp står det på fakturan?",
            "C Fyrahundranittio kronor på båda.",
            "A Jag ser det här. Den andra är en dubblett, jag makulerar den nu.",
            "C Behöver jag göra något själv?",
            "A Nej, betala bara den första. Du får en bekräftelse med e-post.",
            "C Utmärkt, tack för hjälpen.",
            "A Tack själv, ha en bra dag.",
        ),
        tags=("invoice",),
    ),
    DemoCall(
        "demo-0003", "en", 9, (10, 41), encoding.OPUS, "A-17", "orders", 2,
        _said(
            "A Good morning, Example customer service, this call is recorded. How can I help?",
            "C Hello, I would like to return a pair of boots. They are one size too small.",
            "A No problem at all. Have you still got the box and the return label?",
            "C The box, yes. I am afraid I threw the label away.",
            "A Then I will send you a new one by e-mail. You can drop the parcel at any pick-up point.",
            "C Lovely. How long does the refund take?",
            "A About five working days from when we receive the boots.",
            "C Thank you, that is all I needed.",
        ),
        tags=("return",), service_events=(("return", "R-1043"),),
    ),
    DemoCall(
        "demo-0004", "fi", 14, (15, 27), encoding.WAV_PCM16_8K, "A-23", "payments", 3,
        _said(
            "A Esimerkin asiakaspalvelu, Liisa puhelimessa. Puhelu tallennetaan.",
            "C Hei, maksaisin avoimen laskun kortilla, jos se käy puhelimessa.",
            "A Kyllä käy. Kertoisitteko kortin numeron rauhassa?",
            "C* Neljä viisi nolla nolla, yksi kaksi kolme neljä, viisi kuusi seitsemän kahdeksan, "
            "yhdeksän nolla yksi kaksi.",
            "A Kiitos. Maksu neljäkymmentäkaksi euroa on nyt hyväksytty.",
            "C Hienoa. Tuleeko siitä kuitti?",
            "A Kuitti tulee sähköpostiinne muutaman minuutin kuluessa.",
            "C Kiitos ja hei hei.",
        ),
        tags=("payment",), service_events=(("payment", "P-77120"),),
    ),
    DemoCall(
        "demo-0005", "sv", 30, (11, 8), encoding.MP3, "A-21", "support", 4,
        _said(
            "A Exempels tekniska support, det här samtalet spelas in. Vad kan jag hjälpa till med?",
            "C Min nya kaffebryggare startar inte. Lampan blinkar bara rött.",
            "A Då är vattentanken oftast inte riktigt på plats. Kan du lyfta ur den och sätta tillbaka den?",
            "C Vänta lite, jag provar. Ja, nu klickade det till.",
            "A Vilken färg har lampan nu?",
            "C Den lyser grönt! Så enkelt var det.",
            "A Vad bra. Glöm inte att avkalka den var tredje månad.",
            "C Det ska jag göra. Tack så mycket.",
        ),
        tags=("technical",), call=("demo-call-5", 1),
    ),
    DemoCall(
        "demo-0015", "sv", 30, (11, 12), encoding.MP3, "A-21", "support", 4,
        _said(
            "A Tack för att du väntade. Är du kvar?",
            "C Ja, jag är kvar. En sak till: kannan har fått en spricka i glaset.",
            "A Det var tråkigt. Den ersätter vi, men det sköter mina kollegor på order.",
            "C Kan du koppla mig dit?",
            "A Det gör jag. Jag berättar för dem vad det gäller, så slipper du säga allt en gång till.",
            "C Vad snällt, tack ska du ha.",
        ),
        tags=("technical",), call=("demo-call-5", 2),
    ),
    DemoCall(
        "demo-0016", "sv", 30, (11, 14), encoding.WAV_MULAW, "A-17", "orders", 4,
        _said(
            "A Hej, det är Mikko på order. Min kollega sade att din kanna är sprucken.",
            "C Ja, precis, en lång spricka nere vid botten.",
            "A Då skickar jag en ny i dag, utan kostnad. Stämmer adressen Provgatan fem i Göteborg?",
            "C Ja, den stämmer fortfarande.",
            "A Bra. Den gamla kannan kan du slänga i glasåtervinningen.",
            "C Underbart. Tack för hjälpen, hej då.",
        ),
        tags=("delivery",), service_events=(("order", "O-58377"),), call=("demo-call-6", 1),
        transferred_from="demo-call-5",
    ),
    DemoCall(
        "demo-0006", "en", 45, (16, 50), encoding.G722, "A-17", "orders", None,
        _said(
            "A Example customer service, good afternoon. This call is recorded.",
            "C Hi, I am not a customer yet. Do you deliver to the islands off Turku?",
            "A We do, twice a week, on Tuesdays and Fridays.",
            "C And what would a sofa cost to deliver?",
            "A Large items are forty-nine euros, carried to the door.",
            "C That is quite reasonable. Can I order over the phone?",
            "A You can, or in the web shop, where you also see the delivery dates.",
            "C I will think about it and come back to you. Thanks.",
        ),
        tags=("sales",), stranger_phone="+358401119999",
    ),
    DemoCall(
        "demo-0007", "fi", 80, (8, 33), encoding.FLAC, "A-23", "orders", 6,
        _said(
            "A Hyvää huomenta, Esimerkin asiakaspalvelu. Tämä puhelu tallennetaan.",
            "C Huomenta. Muutin juuri, ja haluaisin ilmoittaa uuden osoitteen.",
            "A Onneksi olkoon uuteen kotiin. Mikä osoite on?",
            "C Mallikatu seitsemän, neljäkymmentätuhatta sata, Jyväskylä.",
            "A Osoite on nyt päivitetty. Siirränkö samalla lehtitilauksenne?",
            "C Kyllä kiitos, siitä meinasinkin kysyä.",
            "A Se siirtyy ensi viikon alusta lähtien.",
            "C Kiitos, olipa vaivatonta.",
        ),
        tags=("address",), service_events=(("registration", "A-20881"),),
    ),
    DemoCall(
        "demo-0008", "sv", 120, (14, 19), encoding.WAV_ALAW, "A-21", "support", 7,
        _said(
            "A Hej och välkommen till Exempel, du talar med Anna. Vi spelar in samtalet.",
            "C Hej, jag vill säga upp min prenumeration på vinlådan.",
            "A Det ordnar jag. Får jag fråga varför?",
            "C Jag hinner helt enkelt inte dricka upp allt.",
            "A Vi kan också pausa den i tre månader, om det passar bättre.",
            "C Nej tack, jag vill avsluta den helt.",
            "A Då är den avslutad från månadsskiftet. Du får en bekräftelse.",
            "C Tack, det var snabbt gjort.",
        ),
        tags=("cancellation",),
    ),
    DemoCall(
        "demo-0009", "fi", 200, (12, 5), encoding.WEBM, "A-23", "complaints", 3,
        _said(
            "A Esimerkin asiakaspalvelu, reklamaatiot. Puhelu tallennetaan.",
            "C Pesukoneenne vuoti yön aikana, ja keittiön lattia on pilalla.",
            "A Olen pahoillani. Milloin kone asennettiin?",
            "C Kolme viikkoa sitten, ja asentajanne teki liitännän.",
            "A Kirjaan vahingon ja siirrän asian vakuutusyhtiöllemme.",
            "C Haluan korvauksen koko lattiasta, tai vien asian eteenpäin.",
            "A Ymmärrän. Lähettäkää kuvat ja remonttiarvio, niin käsittelemme asian viikossa.",
            "C Lähetän ne tänään.",
        ),
        tags=("complaint",), fate="hold",
    ),
    DemoCall(
        "demo-0010", "en", 60, (9, 55), encoding.WAV_PCM8, "A-17", "invoicing", 5,
        _said(
            "A Example customer service, this call is recorded. What can I do for you?",
            "C I have a question about the due date of my bill.",
            "A Certainly. It is due on the last day of this month.",
            "C Could I have two more weeks?",
            "A Yes, I have moved it by fourteen days at no cost.",
            "C Thanks. One more thing: I do not want my calls used for training.",
            "A I will note your objection right away. It takes effect today.",
            "C Good, thank you for that.",
        ),
        tags=("invoice",), fate="objection",
    ),
    DemoCall(
        "demo-0011", "sv", 150, (10, 12), encoding.WAV_MULAW, "A-21", "invoicing", 9,
        _said(
            "A Exempels kundtjänst, samtalet spelas in. Hur kan jag hjälpa dig?",
            "C Ni har fel uppgifter om mig. Det står att jag inte har betalat i mars.",
            "A Jag förstår. Har du ett kvitto från banken?",
            "C Ja, och jag vill att ni slutar använda uppgifterna tills det är utrett.",
            "A Det har du rätt till. Jag begränsar behandlingen medan vi undersöker saken.",
            "C När hör ni av er?",
            "A Senast inom en månad, och oftast mycket tidigare.",
            "C Bra, då väntar jag på besked.",
        ),
        tags=("dispute",), fate="restriction",
    ),
    DemoCall(
        "demo-0012", "fi", 500, (13, 44), encoding.AMR, "A-17", "support", 0,
        _said(
            "A Esimerkin tekninen tuki, puhelu tallennetaan.",
            "C Hei, unohdin verkkokaupan salasanan enkä pääse kirjautumaan.",
            "A Ei hätää. Lähetän sähköpostiinne linkin, jolla voitte vaihtaa sen.",
            "C Linkki tuli jo. Kirjoitan uuden salasanan.",
            "A Onnistuiko kirjautuminen?",
            "C Onnistui, nyt näen kaikki tilaukseni.",
            "A Hienoa. Linkki vanhenee tunnin kuluttua, joten se ei jää roikkumaan.",
            "C Kiitos avusta.",
        ),
        direction="outbound", tags=("technical",),
    ),
    DemoCall(
        "demo-0013", "en", 4 * 365, (11, 30), encoding.WAV_PCM16_8K, "A-23", "orders", 2,
        _said(
            "A Example customer service, good morning. The call is recorded.",
            "C Good morning. I want to confirm the warranty on the dishwasher I bought.",
            "A Of course. It has a five year warranty, parts and labour.",
            "C So if it breaks in year four, a repair costs me nothing?",
            "A That is right, as long as it was used at home.",
            "C Could you put that in writing?",
            "A I have just sent it to your e-mail address.",
            "C Perfect. Thank you, goodbye.",
        ),
        tags=("warranty",),
    ),
    DemoCall(
        "demo-0014", "fi", 8 * 366 + 60, (9, 2), encoding.WAV_ALAW, "A-23", "orders", 8,
        _said(
            "A Esimerkin asiakaspalvelu, hyvää päivää. Puhelu tallennetaan.",
            "C Päivää. Haluaisin perua tilaukseni ja lopettaa asiakkuuden.",
            "A Valitettava kuulla. Tilaus on nyt peruttu.",
            "C Entä tietoni, milloin ne poistetaan?",
            "A Viimeistään kahdeksan vuoden kuluttua viimeisestä yhteydenotosta.",
            "C Hyvä tietää. Kiitos näistä vuosista.",
            "A Kiitos teille, ja tervetuloa takaisin milloin vain.",
        ),
        tags=("cancellation",),
    ),
)  # fmt: skip
