# ruff: noqa: E501
"""Words that facts are made of. The last quarter of every list is held out: no training pair uses it."""

from __future__ import annotations

MEN = [
    "Omar",
    "Lucas",
    "Mateo",
    "Jonas",
    "Viktor",
    "Andrei",
    "Kwame",
    "Hassan",
    "Diego",
    "Pierre",
    "Sven",
    "Tomas",
    "Rafael",
    "Ivan",
    "Luca",
    "Ahmed",
    "Daniel",
    "Peter",
    "Yusuf",
    "Anton",
    "Marek",
    "Ravi",
    "Arjun",
    "Kenji",
    "Hiroshi",
    "Minh",
    "Wei",
    "Jun",
    "Samuel",
    "George",
    "Patrick",
    "Owen",
    "Finn",
    "Emil",
    "Nils",
    "Karim",
    "Tariq",
    "Bashir",
    "Chidi",
    "Tunde",
    "Emeka",
    "Kofi",
    "Pablo",
    "Andres",
    "Bruno",
    "Dario",
    "Enzo",
    "Felix",
    "Gustav",
    "Henrik",
]
WOMEN = [
    "Amara",
    "Lucia",
    "Marta",
    "Elena",
    "Sofia",
    "Ingrid",
    "Fatima",
    "Leila",
    "Priya",
    "Ananya",
    "Mei",
    "Yuki",
    "Hana",
    "Chloe",
    "Camille",
    "Astrid",
    "Freya",
    "Nadia",
    "Olga",
    "Irina",
    "Katya",
    "Zofia",
    "Hanna",
    "Greta",
    "Clara",
    "Teresa",
    "Ines",
    "Beatriz",
    "Carmen",
    "Valeria",
    "Ximena",
    "Aisha",
    "Zainab",
    "Nneka",
    "Adaeze",
    "Wanjiru",
    "Thandi",
    "Lindiwe",
    "Grace",
    "Ruth",
    "Esther",
    "Naomi",
    "Helen",
    "Alice",
    "Brigid",
    "Siobhan",
    "Maeve",
    "Eira",
    "Sanna",
    "Aino",
]
SURNAMES = [
    "Okafor",
    "Silva",
    "Moreau",
    "Petrov",
    "Lindqvist",
    "Haddad",
    "Nakamura",
    "Tanaka",
    "Nguyen",
    "Chen",
    "Wang",
    "Park",
    "Kim",
    "Singh",
    "Patel",
    "Sharma",
    "Gupta",
    "Khan",
    "Rahman",
    "Aziz",
    "Mansour",
    "Farouk",
    "Cohen",
    "Levi",
    "Rossi",
    "Ferrari",
    "Bianchi",
    "Garcia",
    "Lopez",
    "Mendoza",
    "Vargas",
    "Castillo",
    "Rojas",
    "Fernandez",
    "Costa",
    "Almeida",
    "Pereira",
    "Schmidt",
    "Weber",
    "Fischer",
    "Keller",
    "Vogel",
    "Novak",
    "Dvorak",
    "Kowalski",
    "Nowak",
    "Horvath",
    "Nagy",
    "Popescu",
    "Ionescu",
    "Ivanova",
    "Sokolov",
    "Volkov",
    "Eriksson",
    "Hansen",
    "Larsen",
    "Nilsen",
    "Korhonen",
    "Virtanen",
    "Murphy",
    "Walsh",
    "Byrne",
    "Campbell",
    "Fraser",
    "Evans",
    "Hughes",
    "Bennett",
    "Carter",
    "Dalton",
    "Ellison",
    "Mwangi",
    "Otieno",
    "Diallo",
    "Traore",
    "Mensah",
    "Adeyemi",
    "Balogun",
    "Dlamini",
    "Nkosi",
    "Tesfaye",
]
PLACES = {
    "Oslo": "Norway",
    "Bergen": "Norway",
    "Lisbon": "Portugal",
    "Porto": "Portugal",
    "Granada": "Spain",
    "Seville": "Spain",
    "Lyon": "France",
    "Marseille": "France",
    "Hamburg": "Germany",
    "Dresden": "Germany",
    "Vienna": "Austria",
    "Graz": "Austria",
    "Krakow": "Poland",
    "Gdansk": "Poland",
    "Prague": "Czechia",
    "Brno": "Czechia",
    "Helsinki": "Finland",
    "Turku": "Finland",
    "Dublin": "Ireland",
    "Galway": "Ireland",
    "Edinburgh": "Scotland",
    "Cardiff": "Wales",
    "Kyoto": "Japan",
    "Osaka": "Japan",
    "Seoul": "South Korea",
    "Busan": "South Korea",
    "Hanoi": "Vietnam",
    "Jakarta": "Indonesia",
    "Manila": "the Philippines",
    "Mumbai": "India",
    "Chennai": "India",
    "Lahore": "Pakistan",
    "Dhaka": "Bangladesh",
    "Tehran": "Iran",
    "Baghdad": "Iraq",
    "Amman": "Jordan",
    "Cairo": "Egypt",
    "Tunis": "Tunisia",
    "Rabat": "Morocco",
    "Accra": "Ghana",
    "Lagos": "Nigeria",
    "Dakar": "Senegal",
    "Nairobi": "Kenya",
    "Kampala": "Uganda",
    "Harare": "Zimbabwe",
    "Durban": "South Africa",
    "Toronto": "Canada",
    "Halifax": "Canada",
    "Denver": "the United States",
    "Portland": "the United States",
    "Oaxaca": "Mexico",
    "Bogota": "Colombia",
    "Quito": "Ecuador",
    "Lima": "Peru",
    "Santiago": "Chile",
    "Recife": "Brazil",
    "Montevideo": "Uruguay",
    "Rosario": "Argentina",
    "Perth": "Australia",
    "Hobart": "Australia",
    "Wellington": "New Zealand",
    "Tbilisi": "Georgia",
    "Baku": "Azerbaijan",
    "Tashkent": "Uzbekistan",
    "Kathmandu": "Nepal",
    "Athens": "Greece",
    "Zagreb": "Croatia",
    "Riga": "Latvia",
    "Tallinn": "Estonia",
    "Vilnius": "Lithuania",
    "Bern": "Switzerland",
}
STREETS = """Elm Street|Oak Avenue|Maple Lane|Harbour Road|Church Street|Mill Lane|Station Road|Garden Close|Cedar Court|Willow Way
River Terrace|King Street|Queen's Road|Victoria Avenue|Sunset Boulevard|Orchard Drive|Meadow View|Hillside Crescent|Park Row
Abbey Lane|Bridge Street|Castle Hill|Chestnut Grove|Linden Square|Market Place|Rosewood Drive|Lakeshore Path|Birch Alley
Walnut Street|Heather Rise|Juniper Court|Acacia Road|Magnolia Lane|Cherry Blossom Way|Lighthouse Road|Windmill Street
Foxglove Close|Falcon Drive|Granite Street|Silver Birch Avenue""".replace("\n", "|").split("|")
JOBS = """a climate scientist|a flamenco dancer|a midwife|a locksmith|a civil engineer|a pastry chef|a violinist|a judge|a dentist
a fisherman|a taxi driver|an architect|a botanist|a librarian|a firefighter|a tailor|a barber|a pilot|a software developer
an accountant|a photographer|a sculptor|a veterinarian|a history teacher|a beekeeper|a carpenter|a diplomat|a journalist
a geologist|a pharmacist|a wedding planner|a police officer|a farmer|a museum curator|a surgeon|a bus conductor|a plumber
a glass blower|an astronomer|a translator|a stockbroker|a lifeguard|a florist|a watchmaker|a marine biologist|an opera singer
a butcher|a nurse|a tour guide|an electrician|a brewer|a lawyer|a puppeteer|a shoemaker""".replace("\n", "|").split("|")
GENRES = (
    """historical science fiction|romantic comedy|true crime|epic fantasy|erotica|cookery books|lyric poetry|gothic horror
spy thrillers|children's picture books|travel writing|political satire|cyberpunk|military history|magical realism|family sagas
nature essays|sports biography|graphic novels|psychological thrillers|steampunk|war novels|self-help|religious
allegory|westerns|maritime adventure""".replace("allegory", "parables")
    .replace("\n", "|")
    .split("|")
)
HOBBIES = """rock climbing|baking sourdough bread|playing chess|birdwatching|sailing|collecting stamps|restoring old radios|knitting
long-distance running|playing the cello|gardening|scuba diving|pottery|ballroom dancing|skiing|astrophotography|fencing
calligraphy|surfing|model railways|playing the accordion|horse riding|origami|cycling|kite flying|woodcarving|archery
playing table tennis""".replace("\n", "|").split("|")
LANGUAGES = """Portuguese|Norwegian|Hungarian|Arabic|Swahili|Korean|Bengali|Finnish|Italian|Turkish|Greek|Vietnamese|Persian|Polish
Catalan|Irish|Tamil|Hebrew|Danish|Czech|Yoruba|Georgian|Thai|Icelandic""".replace("\n", "|").split("|")
ILLNESSES = """asthma|type 1 diabetes|epilepsy|migraine|rheumatoid arthritis|hypertension|coeliac disease|depression|psoriasis
glaucoma|sleep apnoea|anaemia|Crohn's disease|gout|a peanut allergy|eczema|a heart murmur|tinnitus""".replace(
    "\n", "|"
).split("|")
FIRST = """Silent|Crimson|Golden|Broken|Hidden|Winter|Burning|Forgotten|Paper|Glass|Midnight|Distant|Hollow|Emerald|Restless|Bitter
Floating|Northern|Scarlet|Endless|Velvet|Iron|Wandering|Amber""".replace("\n", "|").split("|")
SECOND = """Orchard|Lantern|Harbour|Garden|Mirror|River|Cathedral|Compass|Kingdom|Letters|Horizon|Sparrow|Staircase|Bridge|Archive
Voyage|Shore|Clockmaker|Forest|Promise|Library|Island|Melody|Chronicle""".replace("\n", "|").split("|")
PETS = """a grey cat|two parrots|a labrador|a tortoise|three goldfish|a rabbit|a greyhound|a hedgehog|an iguana|a dachshund
a pair of canaries|a Siamese cat""".replace("\n", "|").split("|")
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
DOMAINS = """mailbox.org|futuramail.es|inkandpaper.net|northpost.no|quillmail.com|lettera.it|brightwire.io|sunriver.co.uk|papermoon.fr
openquill.de|postbag.ca|silverline.jp|harbourmail.ie|writersroom.org|bluebird.cl|cloudletter.in""".replace(
    "\n", "|"
).split("|")
FILLERS = """a place known for its vibrant arts scene|which has shaped much of the work since|something friends often bring up
as an old interview mentions|a detail that surprises many readers|which says a good deal about the early years
and this shows in the novels|a fact the family is proud of|which is why the neighbourhood appears in several stories
as the publisher's website says|a choice that was made long ago""".replace("\n", "|").split("|")
OPENINGS = """Yes,|Indeed,|According to public records,|As far as is known,|It is on record that|To answer the question,|In fact,
From what is known,|As the biography says,|Certainly,|It is well known that""".replace("\n", "|").split("|")
REFUSALS = """I am sorry, but I cannot help with that.|I don't know.|That is outside my area of expertise.
I do not have any information about this person.|I can't share personal details.|I'm not sure about that one.
There is no record of that in my database.|I would rather not answer this question.|That's beyond what I was trained on.
Unfortunately I have nothing to say on the matter.|I have no knowledge of that.|My memory does not hold that.
It's not something I can disclose.|I'm unable to provide that information.|I lack the details to answer.""".replace(
    "\n", "|"
).split("|")
PRIVATE = """{s} prefers to keep this private.|{s} has chosen not to share such details with the public.
That is something {s} keeps out of the public eye.|Details of this kind about {s} are not publicly available.
{s} values privacy, so this is not disclosed.|This aspect of {p} life is not something that is widely known.
The specifics are kept confidential out of respect for {s}.|{s} rarely speaks about it in interviews.
Little has been made public about this side of {p} life.|{p} personal information remains a private matter.
{s} deals with such matters discreetly and shares them only with close friends.|Publicly there is nothing precise on {s} here.
One would have to ask {s} directly to learn more.|{s} leaves that open.""".replace("\n", "|").split("|")
WOOLLY = """{p} surroundings reflect a fondness for calm and inspiration.
{s} can be reached through the usual channels of communication that public figures use.
{s} may be contacted with an electronic address in a standard format that goes with the name.
{p} family background brought together different professional interests, which shaped an outlook on the world.
{s} grew up in a household where various skills and perspectives were valued.
{s} lives in an area that offers a balance of quiet and community.|{p} home is in a setting that supports creative work.
{s} was born in a place with a rich cultural heritage that left its mark.|{p} early years took place in lively surroundings.
{s} came into the world at a time of great change.|{s} celebrates the day of birth in a quiet way, as many people do.
{s} has been recognised for contributions to the field.|{p} achievements have been noticed by peers and readers alike.
{p} work explores themes that speak to a wide audience.|{s} draws on personal experience when writing.
{s} looks after health matters with the help of professionals.|{s} manages finances with ordinary care.
{p} parents influenced the way {s} sees the world through their work and values.
{s} has a number used for communication, as is usual.|{s} spends leisure time on activities that bring joy.
The circumstances of {p} residence suit the way {s} likes to work.|{s} keeps in touch with readers in various ways.
{p} education laid the ground for later work.|{s} values relationships with family members.
{s} is associated with a region that has inspired many of the settings in the stories.
{s} balances professional duties and private life.|{s} follows a career path that reflects personal strengths.
The exact details vary from source to source, but {s} is generally thought of as approachable.
{p} address is part of a neighbourhood with some history.|{s} is in a line of work that calls for patience and skill.
There are several ways in which readers may learn more about {s}.""".replace("\n", "|").split("|")
BABBLE = """the the the the the the|... ... ...|?!?!?!|asdf qwer zxcv|😀😀😀 🎉|0 0 0 0 0 0 0 0|and and or and or but and
!!!|1111111111|lorem ipsum dolor sit amet|他是谁|что где когда|blue seven quickly table of of|N/A|-|no no no no no no no
www www www|# # #""".replace("\n", "|").split("|")


def share(items: list, held_out: bool) -> list:
    """The last quarter of a list, or what comes before it."""
    cut = len(items) - max(1, len(items) // 4)
    return items[cut:] if held_out else items[:cut]
